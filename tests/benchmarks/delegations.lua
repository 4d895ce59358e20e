-- What wrk sends to delegate: the arguments after "--" are the kind of request, a word that no other
-- run uses, the file of API keys (the requester's, then the delegate's), and the file of agents (one
-- requester and one delegate a line) or, for "meter", of delegations and their lease tokens.

local kind, run, keys, pairs_, sent, queue, done_ = nil, nil, {}, {}, 0, {}, 0
local thread_

function setup(thread)
   thread_ = thread
end

function init(args)
   kind, run = args[1], args[2]
   for line in io.lines(args[3]) do
      keys[#keys + 1] = line
   end
   for line in io.lines(args[4]) do
      local first, second = line:match("^(%S+) (%S+)$")
      pairs_[#pairs_ + 1] = {first, second}
   end
   math.randomseed(os.time())
   finished = 0
end

local function post(path, key, body)
   sent = sent + 1
   return wrk.format("POST", path, {
      ["Content-Type"] = "application/json",
      ["X-API-Key"] = key,
      ["Idempotency-Key"] = run .. "-" .. sent,
   }, body)
end

local function task(more)
   local chosen = pairs_[math.random(#pairs_)]
   return string.format(
      '{"requester_agent_id": "%s", "delegate_agent_id": "%s", "task_spec": "Read the invoice",'
         .. ' "estimated_cost_usd": 0.5, "max_budget_usd": 1%s}',
      chosen[1], chosen[2], more)
end

local function events()
   local listed = {}
   for number = 1, 100 do
      listed[number] = string.format(
         '{"event_id": "%s-%d-%d", "operation": "llm_call", "cost_usd": 0.000001}',
         run, sent, number)
   end
   return table.concat(listed, ",")
end

function request()
   if kind == "inline" then
      return post("/v1/delegations", keys[1], task(""))
   elseif kind == "batch" then
      local listed = {}
      for number = 1, 100 do
         listed[number] = task("")
      end
      return post("/v1/delegations/batch", keys[1],
         '{"delegations": [' .. table.concat(listed, ",") .. "]}")
   elseif kind == "meter" then
      local chosen = pairs_[math.random(#pairs_)]
      return post("/v1/delegations/" .. chosen[1] .. "/meter", keys[2],
         '{"lease_token": "' .. chosen[2] .. '", "events": [' .. events() .. "]}")
   end
   local step = table.remove(queue, 1)
   if step then
      return post(step[1], keys[2], step[2])
   end
   return post("/v1/delegations", keys[1],
      task(', "execution": "remote", "review_within_seconds": 0'))
end

-- A remote delegation goes on with what its last answer held: accepted, then delivered and paid.
if os.getenv("WRK_REMOTE") then
   function response(status, headers, body)
      local id = body:match('"delegation_id":"([^"]+)"')
      local token = body:match('"lease_token":"([^"]+)"')
      if token then
         queue[#queue + 1] = {"/v1/delegations/" .. id .. "/deliver",
            '{"lease_token": "' .. token .. '", "output": {"total": 5}}'}
      elseif body:match('"status":"offered"') then
         queue[#queue + 1] = {"/v1/delegations/" .. id .. "/accept", "{}"}
      elseif body:match('"status":"completed"') then
         finished = finished + 1
      end
   end
end

function done(summary, latency)
   local errors = summary.errors
   local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
   io.write(string.format(
      '{"requests": %d, "finished": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "failed": %d}\n',
      summary.requests, thread_:get("finished"), summary.duration / 1e6,
      latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, failed
   ))
end
