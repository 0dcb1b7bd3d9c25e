-- Delete answers.
--
-- KEYS: counters; expiry of each answer; size and model of each; then the keys of answers
-- ARGV: their digests

own_tables(KEYS[1], KEYS[2], KEYS[3])
local gone = 0
for at, digest in ipairs(ARGV) do
  redis.call('DEL', KEYS[3 + at])
  if leave(KEYS[1], KEYS[2], KEYS[3], digest) then gone = gone + 1 end
end
return gone
