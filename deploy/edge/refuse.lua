-- Answers a request that is refused, in the words of its protocol, after the rest of its body has arrived: a client that
-- is still sending would not read the answer. The header x-refusal is "HTTP-STATUS GRPC-STATUS TEXT"; x-rpc is not empty for gRPC.
local MOST = 16 * 1048576 -- of a body that is longer, the rest is not waited for

core.register_service("refuse", "http", function(applet)
  local status, grpc_status, text = applet.headers["x-refusal"][0]:match("^(%d+) (%d+) (.*)$")
  local headers = applet.headers
  -- A request for a WebSocket has no body, and its connection no end.
  local has_body = headers["x-rpc"][0] ~= "" or headers["content-length"] or headers["transfer-encoding"]
  local left = has_body and MOST or 0
  while left > 0 do
    local data = applet:receive(65536)
    if not data or #data == 0 then break end
    left = left - #data
  end
  if applet.headers["x-rpc"][0] ~= "" then
    applet:set_status(200)
    applet:add_header("content-type", "application/grpc")
    applet:add_header("grpc-status", grpc_status)
    applet:add_header("grpc-message", text)
    applet:add_header("content-length", "0")
    applet:start_response()
  else
    local body = '{"error": "' .. text .. '"}\n'
    applet:set_status(tonumber(status))
    applet:add_header("content-type", "application/json")
    applet:add_header("content-length", #body)
    if status == "429" then applet:add_header("retry-after", "1") end
    applet:start_response()
    applet:send(body)
  end
end)
