"""The front page and the catalogue: what anybody may see of the registry, as pages for people.

Like the console it is no scope: it owns no table and reads what the registry offers. From the same
addresses programs get the JSON of the API.
"""
