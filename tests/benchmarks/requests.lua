-- What wrk sends: GETs of random paths from a file, or PUTs of fresh versions to them.
--
-- Arguments after "--": the file of paths, then for PUTs also the API key, a word that no other run
-- uses, and the file of a body in which SLUG and VERSION stand for the agent's own.

local paths, key, run, body, sent = {}, nil, nil, nil, 0

function init(args)
   for line in io.lines(args[1]) do
      paths[#paths + 1] = line
   end
   if args[2] then
      key, run = args[2], args[3]
      local file = io.open(args[4])
      body = file:read("*a")
      file:close()
   end
   math.randomseed(os.time())
end

function request()
   local path = paths[math.random(#paths)]
   if not key then
      return wrk.format("GET", path)
   end
   sent = sent + 1
   local headers = {
      ["Content-Type"] = "application/json",
      ["X-API-Key"] = key,
      ["Idempotency-Key"] = run .. "-" .. sent,
   }
   local values = {SLUG = path:match(":(.*)$"), VERSION = run .. "." .. sent}
   return wrk.format("PUT", path, headers, (body:gsub("%u+", values)))
end

function done(summary, latency)
   local errors = summary.errors
   local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
   io.write(string.format(
      '{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "failed": %d}\n',
      summary.requests, summary.duration / 1e6,
      latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, failed
   ))
end
