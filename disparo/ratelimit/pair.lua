-- Turns of recipients: which rows of a claim may leave now, and when the others should come back.
--
-- An app may write to one recipient once in `every`, or `burst` times within one `every`: then as many turns are
-- borrowed from the time ahead, and the next one comes when all of them are over. Times are microseconds of this
-- server's clock, so that all workers agree.
--
-- Who has to wait stands in the recipient's line: payment before utility before marketing, then by id. The line only
-- says when to come back and who is first. Nobody has to come: what is ahead and does not come within `grace`
-- of its turn is passed, so that a cancelled message holds nobody.
--
-- KEYS[1]   since when the turns taken are known here; missing in a Redis that is new or was emptied
-- KEYS[2…]  the recipient of each row: its last turns. Its line is the same key with `:line` behind it
-- ARGV[1]   'take' or 'refused'
-- ARGV[2]   every: microseconds between two turns
--
-- take: ARGV[3] burst; [4] ahead: a row that is let go has left within this; [5] spacing of the line; [6] grace;
--   [7] '1' when what was sent before is given too; then a name for each row: id.tries.lane, the lane as a digit.
--   A row that comes again under the same name has not left, and keeps its turn. When [7] is '1', then for each row
--   'ago n': n messages to its recipient within the last `every` × `burst`, the last one `ago` before; or ''.
--   Returns {0, row, wait, row, wait, …} for the rows that have to wait, or {1, window} when the caller must look up
--   what was sent to the recipients within that window, and call again.
--
-- refused: the provider said that the one recipient gets too much. ARGV[3] the first wait; [4] by how much it grows;
--   [5] the longest; [6] the name of the row that was refused, which comes back. Returns the wait.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local every = tonumber(ARGV[2])

local function known(key)
  local value = redis.call('GET', key)
  if not value then
    return nil
  end
  -- last: when the last row that was let go has left; start: when the first one of its burst was let go, the n-th of
  -- which it is; till: nothing before, because of refusals in a row; tested: whether one was let go since.
  local last, start, n, till, wrote, waits, refusals, tested, name =
    string.match(value, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d) (%d+) (%d) (%S*)$')
  local pair = {
    last = tonumber(last), start = tonumber(start), n = tonumber(n), till = tonumber(till), wrote = tonumber(wrote),
    waits = waits == '1', refusals = tonumber(refusals), tested = tested == '1', name = name,
  }
  local back = pair.wrote - now
  if back > 0 then
    -- This server's clock was set back: what is left is what was left at the last look.
    pair.last, pair.start, pair.till = pair.last - back, pair.start - back, math.max(0, pair.till - back)
  end
  return pair
end

local function free(pair)
  return math.max(pair.last + pair.n * every, pair.till)
end

local function keep(key, pair, longer)
  local value = string.format('%.0f %.0f %d %.0f %.0f %d %d %d %s', pair.last, pair.start, pair.n, pair.till, now,
    pair.waits and 1 or 0, pair.refusals, pair.tested and 1 or 0, pair.name)
  local milliseconds = math.ceil((math.max(0, free(pair) - now) + longer) / 1000)
  redis.call('SET', key, value, 'PX', string.format('%.0f', milliseconds))
end

local function place_of(name)
  local id, lane = string.match(name, '^(%d+)%.%d+%.(%d)$')
  return string.format('%.0f', tonumber(lane) * 2 ^ 50 + tonumber(id)), id
end

if ARGV[1] == 'refused' then
  local first, factor, longest = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
  local pair = known(KEYS[2])
    or {last = now, start = now, n = 1, till = 0, waits = false, refusals = 0, tested = false}
  -- Several that were on their way together are refused once.
  if pair.refusals == 0 or pair.tested then
    pair.till = math.max(pair.till, now + math.min(longest, first * factor ^ math.min(pair.refusals, 64)))
    pair.refusals, pair.tested = pair.refusals + 1, false
  end
  pair.name = ''
  pair.waits = true
  local line = KEYS[2] .. ':line'
  redis.call('ZADD', line, place_of(ARGV[6]))
  redis.call('PEXPIRE', line, string.format('%.0f', math.ceil(2 * (free(pair) - now) / 1000) + 60000))
  -- The next refusal is in a row with this one if it comes about as soon again.
  keep(KEYS[2], pair, free(pair) - now + 60000000)
  return string.format('%.0f', math.max(0, pair.till - now))
end

local burst, ahead, spacing, grace = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local told = ARGV[7] == '1'
local since = tonumber(redis.call('GET', KEYS[1]))
if not since or since > now then
  since = now
  redis.call('SET', KEYS[1], string.format('%.0f', now))
end
local window = every * burst + ahead
if not told and now - since < window then
  return {1, string.format('%.0f', window)}
end

local rows = #KEYS - 1
local waiting = {0}
-- What most rows write: nothing is known of their recipient.
local fresh = string.format('%.0f %.0f 1 0 %.0f 0 0 0 ', now + ahead, now, now)
local fresh_for = string.format('%.0f', math.ceil((ahead + every + grace) / 1000))

for row = 1, rows do
  local key, name = KEYS[row + 1], ARGV[row + 7]
  local pair = known(key)
  local before = told and not pair and ARGV[row + 7 + rows] or ''
  if before ~= '' then
    local ago, n = string.match(before, '^(%d+) (%d+)$')
    local last = now - tonumber(ago) + ahead
    pair = {last = last, start = last - every, n = math.min(burst, tonumber(n)), till = 0, waits = false,
      refusals = 0, tested = false, name = ''}
  end
  if not pair then
    redis.call('SET', key, fresh .. name, 'PX', fresh_for)
  else
    local line = key .. ':line'
    local place, id = place_of(name)
    local turn = free(pair)
    local goes, again = false, pair.name == name
    if now >= turn then
      goes = again or not pair.waits or now >= turn + grace
        or redis.call('ZCOUNT', line, '-inf', '(' .. place) == 0
      if goes then
        pair.start, pair.n = now, 1
      end
    elseif again then
      goes = true
    elseif not pair.waits and pair.n < burst and now >= pair.till and now + ahead < pair.start + every then
      goes, pair.n = true, pair.n + 1
    end
    if goes then
      pair.last = math.max(pair.last, now + ahead)
      if not again and pair.refusals > 0 then
        -- The one before was not refused: the refusals were in a row until there.
        if pair.tested then
          pair.refusals, pair.tested = 0, false
        else
          pair.tested = true
        end
      end
      pair.name = name
      local longer = grace
      if pair.waits then
        -- With those that did not come.
        redis.call('ZREMRANGEBYSCORE', line, '-inf', place)
        local left = redis.call('ZCARD', line)
        pair.waits = left > 0
        longer = left * spacing + 60000000
      elseif pair.refusals > 0 then
        longer = 60000000
      end
      keep(key, pair, longer)
    else
      redis.call('ZADD', line, place, id)
      local wait = math.max(0, turn - now) + redis.call('ZRANK', line, id) * spacing
      local longer = redis.call('ZCARD', line) * spacing + 60000000
      pair.waits = true
      keep(key, pair, longer)
      redis.call('PEXPIRE', line, string.format('%.0f', math.ceil((math.max(0, turn - now) + longer) / 1000)))
      waiting[#waiting + 1] = row
      waiting[#waiting + 1] = string.format('%.0f', wait)
    end
  end
end
return waiting
