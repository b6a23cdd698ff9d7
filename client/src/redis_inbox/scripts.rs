//! What must happen in Redis at once.

use ::redis::Script;

/// Takes a message for one process. Keys: message, watermark, fence. Arguments: queue, offset, lease in
/// milliseconds, whether the coordinator confirmed that its lease is alive.
const TAKE: &str = "
local state = redis.call('GET', KEYS[1])
if state == 'done' then return {'again', 0} end
if state then return {'busy', 0} end
local watermark = redis.call('HGET', KEYS[2], ARGV[1])
if watermark and tonumber(ARGV[2]) < tonumber(watermark) and ARGV[4] == '0' then return {'pruned', 0} end
local token = redis.call('INCR', KEYS[3])
redis.call('SET', KEYS[1], 'running:' .. token, 'PX', ARGV[3])
return {'first', token}";

/// Keeps a message. Keys: message. Arguments: token, lease in milliseconds.
const RENEW: &str = "
if redis.call('GET', KEYS[1]) ~= 'running:' .. ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])";

/// Records the effect for good. Keys: message, settled, watermark. Arguments: token, queue, offset, message id.
/// Below the watermark nothing else will say that it had its effect, so it is never pruned.
const FINISH: &str = "
if redis.call('GET', KEYS[1]) ~= 'running:' .. ARGV[1] then return 0 end
redis.call('SET', KEYS[1], 'done')
local watermark = redis.call('HGET', KEYS[3], ARGV[2])
if not watermark or tonumber(ARGV[3]) >= tonumber(watermark) then
  redis.call('ZADD', KEYS[2], ARGV[3], ARGV[4])
end
return 1";

/// Gives a message back. Keys: message. Arguments: token.
const RELEASE: &str = "
if redis.call('GET', KEYS[1]) == 'running:' .. ARGV[1] then redis.call('DEL', KEYS[1]) end";

/// Raises the watermark of a queue, never lowers it. Keys: watermark. Arguments: queue, offset.
const RAISE: &str = "
local watermark = redis.call('HGET', KEYS[1], ARGV[1])
if not watermark or tonumber(watermark) < tonumber(ARGV[2]) then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end";

pub(super) struct Scripts {
    pub(super) take: Script,
    pub(super) renew: Script,
    pub(super) finish: Script,
    pub(super) release: Script,
    pub(super) raise: Script,
}

impl Default for Scripts {
    fn default() -> Self {
        Self {
            take: Script::new(TAKE),
            renew: Script::new(RENEW),
            finish: Script::new(FINISH),
            release: Script::new(RELEASE),
            raise: Script::new(RAISE),
        }
    }
}
