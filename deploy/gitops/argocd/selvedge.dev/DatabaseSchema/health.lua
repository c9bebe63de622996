-- Health of a DatabaseSchema for Argo CD. Healthy only where the operator looked at this very generation and found it
-- as declared. Needs no Lua libraries. Argo CD loads no second file: what kinds have in common stands in each of them.
local health = {status = "Progressing", message = "the operator has not looked at it yet"}
local status = obj.status or {}

if obj.metadata.deletionTimestamp ~= nil then
  health.message = "it is being deleted"
  return health
end

if obj.spec.suspend == true then
  health.status = "Suspended"
  health.message = "spec.suspend is true: nothing is looked at and nothing is changed"
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
elseif ready.reason == "WaitingForApproval" or ready.reason == "Superseded" then
  health.status = "Suspended"
elseif ready.reason == "Conflict" then
  health.status = "Degraded"
elseif conditions.Stalled ~= nil and conditions.Stalled.status == "True" then
  health.status = "Degraded"
end

-- Tried again for ever. A database that stood before is broken; one that is new may wait for its server to start.
local away = {
  Unreachable = true,
  HostNotFound = true,
  ConnectionTimeout = true,
  ConnectionLost = true,
  TooManyConnections = true,
  CircuitOpen = true,
  Standby = true,
}
if health.status == "Progressing" and (conditions.Provisioned or {}).status == "True" and away[ready.reason] then
  health.status = "Degraded"
end

return health
