-- Permits of one app, spaced so that no second holds more than the rate.
--
-- Generic cell rate algorithm (ITU-T I.371) with no burst: each permit is an instant, and the next one is
-- 1/rate later. Times are microseconds of this server's clock, so that all workers agree. The first permit
-- of a call is a whole microsecond, rounded up: rounding to the nearest would let a second hold one too many.
--
-- KEYS[1]  the next free instant of the app
-- KEYS[2]  the stop of the app, if one is in force
-- KEYS[3]  the cool-down of the app, if there was one: the instants of its end and of the last look at it
-- ARGV[1]  permits wanted, 1 to 500
-- ARGV[2]  microseconds between two permits, a decimal number
-- ARGV[3]  horizon: no permit later than this many microseconds from now
-- ARGV[4]  '1' for a probe, which leaves under the stop
--
-- Returns {0, now, first, n} with n >= 1 permits at first, first + interval, …;
--         {1, now, next} when none is free within the horizon; {2, now, stop} while stopped.
local stop = redis.call('GET', KEYS[2])
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
if stop and ARGV[4] ~= '1' then
  return {2, string.format('%.0f', now), stop}
end

local wanted, interval, horizon = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local latest = now + horizon
-- Where nothing is known, permits granted before may lie ahead of us by the horizon at most, and the next one
-- is an interval later (a second is enough: the rate is per second).
local careful = latest + math.ceil(math.min(interval, 1000000))
local free = redis.call('GET', KEYS[1])
if free then
  free = tonumber(free)
  -- Further ahead than any grant leaves it: this server's clock was set back, or the rate was raised.
  if free > latest + math.ceil(interval) then
    free = careful
  end
else
  -- Redis is new or was emptied.
  free = careful
end
-- What was not used is gone: catching up would be a burst.
if free < now then
  free = now
end
local first = free
local cool = redis.call('GET', KEYS[3])
if cool then
  local till, seen = string.match(cool, '(%d+) (%d+)')
  till, seen = tonumber(till), tonumber(seen)
  if now < seen then
    -- This server's clock was set back: what is left of the cool-down is what was left at the last look.
    till = till - (seen - now)
  end
  if till < now then
    redis.call('DEL', KEYS[3])
  else
    redis.call('SET', KEYS[3], string.format('%.0f %.0f', till, now))
  end
  first = math.max(free, till)
end
if first > latest then
  redis.call('SET', KEYS[1], string.format('%.0f', free))
  return {1, string.format('%.0f', now), string.format('%.0f', first)}
end
local n = math.min(wanted, math.floor((latest - first) / interval) + 1)
redis.call('SET', KEYS[1], string.format('%.0f', first + math.ceil(n * interval)))
return {0, string.format('%.0f', now), string.format('%.0f', first), n}
