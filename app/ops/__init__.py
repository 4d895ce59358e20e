"""Operating the service: migration tracks, diagnosis, maintenance, demonstration."""
