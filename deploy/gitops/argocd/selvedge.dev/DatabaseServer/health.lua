-- Health of a DatabaseServer for Argo CD. Healthy only where the operator looked at this very generation and found it
-- as declared. Needs no Lua libraries. Argo CD loads no second file: what kinds have in common stands in each of them.
local health = {status = "Progressing", message = "the operator has not looked at it yet"}
local status = obj.status or {}

if obj.metadata.deletionTimestamp ~= nil then
  health.message = "it is being deleted"
  return health
end

if status.observedGeneration ~= obj.metadata.generation then
  return health
end

local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end
local ready = conditions.Ready
if ready == nil or ready.observedGeneration ~= obj.metadata.generation then
  return health
end

health.message = ready.reason .. ": " .. (ready.message or "")
if ready.status == "True" then
  health.status = "Healthy"
elseif conditions.Stalled ~= nil and conditions.Stalled.status == "True" then
  health.status = "Degraded"
end

-- Tried again for ever. One that was used before is broken; one that is new may be starting with the rest.
local away = {
  Unreachable = true,
  HostNotFound = true,
  ConnectionTimeout = true,
  ConnectionLost = true,
  TooManyConnections = true,
  CircuitOpen = true,
  Standby = true,
}
if health.status == "Progressing" and status.systemIdentifier ~= nil and away[ready.reason] then
  health.status = "Degraded"
end

return health
