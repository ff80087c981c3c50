-- What wrk sends: the body in the file that is its first argument, as it is or with a number of its own in place of %d,
-- beginning with the second argument; further arguments are headers. It prints what it measured as one line of JSON.
local body, number, numbered

function init(args)
    local file = assert(io.open(args[1], "rb"))
    body = file:read("*a")
    file:close()
    number = tonumber(args[2])
    numbered = body:find("%%d") ~= nil
    wrk.method = "POST"
    wrk.headers["Content-Type"] = "application/json"
    for index = 3, #args do
        local name, value = args[index]:match("^(.-): (.*)$")
        wrk.headers[name] = value
    end
    if not numbered then
        local request = wrk.format(nil, nil, nil, body)
        body = request
    end
end

function request()
    if not numbered then
        return body
    end
    number = number + 1
    return wrk.format(nil, nil, nil, (body:gsub("%%d", tostring(number))))
end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        '\n{"seconds": %f, "requests": %d, "p50_us": %f, "p99_us": %f, "mean_us": %f, "bad": %d, "broken": %d}\n',
        summary.duration / 1e6, summary.requests, latency:percentile(50), latency:percentile(99), latency.mean,
        errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
