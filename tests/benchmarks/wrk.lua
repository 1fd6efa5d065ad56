-- What wrk sends, and how it says what it saw. Arguments: the bytes of the body (0: GET), and "keyed" if each request has
-- a key of its own to split by, as header X-User and as query parameter user.

local number = 0

local function with_body(bytes)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  wrk.body = '{"text": "' .. string.rep("x", bytes - 12) .. '"}'
end

local function keyed()
  number = number + 1
  wrk.headers["X-User"] = "user-" .. number
  return wrk.format(nil, wrk.path .. "?user=user-" .. number)
end

function init(args)
  if tonumber(args[1]) > 0 then with_body(tonumber(args[1])) end
  -- wrk asks for each request as soon as there is a function of this name.
  if args[2] == "keyed" then request = keyed end
end

function done(summary, latency, requests)
  local errors = summary.errors
  local lost = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format(
    'RESULT {"answers": %d, "refused": %d, "lost": %d, "duration_us": %d, "p50_us": %.1f, "p99_us": %.1f}\n',
    summary.requests, errors.status, lost, summary.duration, latency:percentile(50), latency:percentile(99)))
end
