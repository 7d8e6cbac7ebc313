-- Permits of one app, spaced so that no second holds more than the rate.
--
-- Generic cell rate algorithm (ITU-T I.371) with no burst: each permit is an instant, and the next one is an
-- interval later. Times are whole microseconds of this server's clock, so that all workers agree.
--
-- An app is asked for with several asks, the most urgent lane first. While a lane waits for the rate, those
-- behind it get every twentieth permit (their share) and no more. They may reserve a little further ahead than it
-- does, so that there is an instant for that share; and what they had reserved before is all that it waits for.
--
-- KEYS[1]  the next free instant of the app
-- KEYS[2]  the stop of the app, if one is in force
-- KEYS[3]  the cool-down of the app, if there was one: the instants of its end and of the last look at it
-- KEYS[4]  instants before the next free one that were given back, by themselves
-- KEYS[5]  the lanes: w1, w2 until when a lane counts as waiting; f2, f3 when a lane's share is next; all when the
--          app's share of everything is next; seen the last look
-- KEYS[6]  everything: free, its next free instant; seen, the last look
-- KEYS[7]  the apps that wait for everything, by until when they count
-- KEYS[8]  instants of everything before its next free one that nobody took, by themselves
-- KEYS[9…] for each ask two: when its campaign's next permit is due, and the last ones that it had
-- ARGV[1]  microseconds between two permits of the app
-- ARGV[2]  horizon: no permit later than this many microseconds from now
-- ARGV[3]  '1' for a probe, which leaves under the stop
-- ARGV[4]  microseconds between two permits of everything, or 0
-- ARGV[5]  lead: no permit earlier than this many microseconds from now
-- ARGV[6…] for each ask: its lane (1 to 3), permits wanted (1 to 500), messages that wait in all, microseconds
--          between two permits of its campaign or 0
--
-- Returns {0, now, wait, {ahead, …}, …} with the permits of each ask in microseconds from now, and how long until it
-- is worth asking again for what got none (0 where all got some); {1, now, wait} when there is none; {2, now, stop}.
local SHARE = 20
-- A lane that has more than a quarter of the horizon reserved, and messages left, waits for the rate.
local WAITS = 4
-- What a campaign or everything has free later than this would hold up what else the app has.
local SOON = 100000
-- Instants of everything that are kept for others at most when an app passes over them.
local PASSED_OVER = 500

local stop = redis.call('GET', KEYS[2])
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
if stop and ARGV[3] ~= '1' then
  return {2, now, stop}
end

local interval, horizon, of_everything, lead = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[5])
if of_everything > 0 then
  horizon = math.min(horizon, lead + SOON)
end
-- No permit is earlier, so that all that is said of how far ahead one lies is counted from here.
local start = now + lead
local latest = now + horizon
-- Where nothing is known, permits granted before may lie ahead of us by the horizon at most, and the next one
-- is an interval later (a second is enough: the rate is per second).
local function next_free(found, its_interval)
  local free = tonumber(found or '')
  -- Redis is new or was emptied; or it is further ahead than any grant leaves it: this server's clock was set
  -- back, or the rate was raised.
  if not free or free > now + tonumber(ARGV[2]) + its_interval then
    free = now + tonumber(ARGV[2]) + math.min(its_interval, 1000000)
  end
  -- What was not used is gone: catching up would be a burst.
  return math.max(free, now)
end

local free = next_free(redis.call('GET', KEYS[1]), interval)
local earliest = start
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
  earliest = math.max(earliest, till)
end

local lanes = redis.call('HMGET', KEYS[5], 'w1', 'w2', 'f2', 'f3', 'seen', 'all')
local waits = {tonumber(lanes[1] or 0), tonumber(lanes[2] or 0)}
local shares = {0, tonumber(lanes[3] or 0), tonumber(lanes[4] or 0)}
if now < tonumber(lanes[5] or 0) then
  -- Set back: instants of the other clock mean nothing here.
  redis.call('DEL', KEYS[4])
  waits, shares = {0, 0}, {0, 0, 0}
end
local returned = {}
if of_everything == 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', string.format('(%.0f', now))
  returned = redis.call('ZRANGEBYSCORE', KEYS[4], string.format('%.0f', earliest), string.format('%.0f', latest))
end
local used = 0
local free_of_everything, gaps = nil, {}
local others, share_of_everything, by_everything = 0, tonumber(lanes[6] or 0), false
if of_everything > 0 then
  local everything = redis.call('HMGET', KEYS[6], 'free', 'seen')
  free_of_everything = next_free(everything[1], of_everything)
  if now < tonumber(everything[2] or 0) then
    -- Set back, as above.
    redis.call('DEL', KEYS[7], KEYS[8])
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[8], '-inf', string.format('%.0f', now))
  for n, gap in ipairs(redis.call('ZRANGE', KEYS[8], 0, -1)) do
    gaps[n] = tonumber(gap)
  end
  -- While other apps wait for everything, each gets as much of it. Half of SOON it may take ahead, or one
  -- that asks seldom would not get what is its own.
  redis.call('ZREMRANGEBYSCORE', KEYS[7], '-inf', string.format('%.0f', now))
  others = redis.call('ZCARD', KEYS[7]) - (redis.call('ZSCORE', KEYS[7], KEYS[1]) and 1 or 0)
  if share_of_everything > now + 2 * horizon + of_everything * (others + 1) then
    share_of_everything = 0
  end
end

local answer, granted, least, of_lanes = {0, now, 0}, 0, nil, {}
for n = 1, (#ARGV - 5) / 4 do
  local at = 4 * n + 2
  local lane, wanted, left, of_campaign =
    tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local due_of_campaign = of_campaign > 0 and next_free(redis.call('GET', KEYS[7 + 2 * n]), of_campaign)
  local most_of_campaign = of_campaign > 0 and math.ceil(1000000 / of_campaign)
  if of_campaign > 0 and tonumber(redis.call('LINDEX', KEYS[8 + 2 * n], 0) or 0) > now + tonumber(ARGV[2]) then
    -- Set back, as above.
    redis.call('DEL', KEYS[8 + 2 * n])
  end
  -- The more urgent, the shorter.
  local limit = start + math.floor((horizon - lead) * (7 + lane) / 10)
  local restricted = (lane > 1 and waits[1] > now) or (lane > 2 and waits[2] > now)
  local got, wait, by_rate, last, gap = {}, nil, false, now, 1
  while #got < wanted do
    local given_back = tonumber(returned[used + 1] or '')
    local instant = given_back or math.max(free, earliest)
    local free_of_campaign = 0
    if of_campaign > 0 then
      -- In no second more than the cap, however its permits fall between those of the others.
      local first = tonumber(redis.call('LINDEX', KEYS[8 + 2 * n], most_of_campaign - 1) or '')
      free_of_campaign = math.max(due_of_campaign, first and first + 1000000 or 0)
    end
    if free_of_campaign > instant then
      given_back = nil
      instant = math.max(free, earliest)
      if free_of_campaign > math.max(instant, start + SOON) then
        wait = free_of_campaign - math.max(instant, start + SOON)
        break
      end
      instant = math.max(instant, free_of_campaign)
    end
    if free_of_everything and instant <= limit then
      while gaps[gap] and gaps[gap] < instant do
        gap = gap + 1
      end
      instant = gaps[gap] or math.max(instant, free_of_everything)
      local early = others > 0 and share_of_everything - SOON / 2 - instant or 0
      if instant > limit or early > 0 then
        by_everything, by_rate = true, true
        -- Several at once, the next time.
        wait = math.max(instant - limit, early, SOON / 4)
        break
      end
    end
    if instant > limit then
      wait, by_rate = instant - limit, true
      by_everything = by_everything or (free_of_everything or 0) >= instant
      break
    end
    if restricted and shares[lane] > instant then
      wait, by_rate = math.min(shares[lane] - instant, horizon), true
      break
    end
    if given_back then
      used = used + 1
      redis.call('ZREM', KEYS[4], returned[used])
    else
      free = instant + interval
    end
    if restricted then
      shares[lane] = instant + SHARE * interval
    end
    if of_campaign > 0 then
      -- What it lost because the app's permits do not fall on its own instants is not lost for good.
      due_of_campaign = math.max(due_of_campaign, instant - interval) + of_campaign
      redis.call('LPUSH', KEYS[8 + 2 * n], string.format('%.0f', instant))
    end
    if free_of_everything then
      if gaps[gap] then
        redis.call('ZREM', KEYS[8], string.format('%.0f', instant))
        gaps[gap] = 0
      else
        -- The app's own permits may be further apart: what lies between is for others.
        local passed, first = {}, math.max(0, math.floor((instant - free_of_everything) / of_everything) - PASSED_OVER)
        for between = free_of_everything + first * of_everything, instant - of_everything, of_everything do
          passed[#passed + 1] = string.format('%.0f', between)
          passed[#passed + 1] = passed[#passed]
        end
        if #passed > 0 then
          redis.call('ZADD', KEYS[8], unpack(passed))
          redis.call('PEXPIRE', KEYS[8], 2000)
        end
        free_of_everything = instant + of_everything
      end
      -- A little less than its part counts, so that others take what one that waits does not take in time.
      share_of_everything = math.max(share_of_everything, instant) + of_everything * (others + 0.75)
    end
    last = instant
    got[#got + 1] = instant - now
  end
  if lane < 3 then
    -- Until the last permit that it got, or for so long that whoever asks has asked again.
    -- Of several asks of a lane, some may wait for their campaign only.
    local of_lane = of_lanes[lane] or {got = 0, last = now, by_rate = false}
    of_lane.got, of_lane.last = of_lane.got + #got, math.max(of_lane.last, last)
    of_lane.by_rate = of_lane.by_rate or by_rate
    of_lanes[lane] = of_lane
    local reserved = left > of_lane.got and of_lane.last > start + (horizon - lead) / WAITS
    waits[lane] = of_lane.by_rate and now + 1000000 or (reserved and of_lane.last or 0)
  end
  if of_campaign > 0 then
    local kept = string.format('%.0f', math.ceil(of_campaign / 1000) + 60000)
    redis.call('SET', KEYS[7 + 2 * n], string.format('%.0f', due_of_campaign), 'PX', kept)
    redis.call('LTRIM', KEYS[8 + 2 * n], 0, most_of_campaign - 1)
    redis.call('PEXPIRE', KEYS[8 + 2 * n], kept)
  end
  if #got == 0 and wait then
    least = math.min(least or wait, wait)
  end
  granted = granted + #got
  answer[#answer + 1] = got
end
redis.call('SET', KEYS[1], string.format('%.0f', free))
if free_of_everything then
  redis.call('HSET', KEYS[6], 'free', string.format('%.0f', free_of_everything), 'seen', string.format('%.0f', now))
  redis.call('HSET', KEYS[5], 'all', string.format('%.0f', share_of_everything))
  if by_everything then
    redis.call('ZADD', KEYS[7], string.format('%.0f', now + 1000000), KEYS[1])
  else
    redis.call('ZREM', KEYS[7], KEYS[1])
  end
end
redis.call('HSET', KEYS[5], 'w1', string.format('%.0f', waits[1]), 'w2', string.format('%.0f', waits[2]),
  'f2', string.format('%.0f', shares[2]), 'f3', string.format('%.0f', shares[3]), 'seen', string.format('%.0f', now))
if granted == 0 then
  return {1, now, least or 1000}
end
answer[3] = least or 0
return answer
