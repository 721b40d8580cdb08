"""
Every bound of the protocol, with its purpose. Relations between bounds are asserted where they are defined.

Promise: a client that keeps to these numbers is never refused for size. `welcome.limits` carries the ones a client
needs, so that a later gateway may raise them without a new client.

Not here: settings an operator can change (rates, expiry, pending bounds): those belong to the gateway.
"""

from typing import Final

PROTOCOL_VERSION: Final = 1

# Frames. One frame is one WebSocket message; the socket layer refuses larger ones before they are decoded.
FRAME_BYTES_MAX: Final = 65_536
UPDATE_BYTES_MAX: Final = 32_768
BATCH_UPDATES_MAX: Final = 200
WINDOW: Final = 256

# A batch must always have room for one largest update, else that update could not be sent in any batch, and a whole
# batch must fit into the window, else a client could never send it.
assert UPDATE_BYTES_MAX * 2 <= FRAME_BYTES_MAX
assert BATCH_UPDATES_MAX <= WINDOW

# Decoding. Arrays and maps are counted in items. A frame that passes these may still be void for what it holds.
# 16,384 is the longest array that 32 KiB of JSON can spell; longer headers exist only to make a decoder allocate.
DECODE_ARRAY_MAX: Final = 16_384
DECODE_MAP_MAX: Final = 8_192
# Strings allocate nothing ahead: the frame bounds them, so that an update too large is told so (105), not "bad frame".
DECODE_STRING_BYTES_MAX: Final = FRAME_BYTES_MAX
DECODE_DEPTH_MAX: Final = 64

# The envelope.
SEQ_MAX: Final = 2**53
TIME_MS_MAX: Final = 2**53
DEVICE_CHARS_MAX: Final = 64
# The stream of what operators and services do to a progress: no installation may have this name.
OPS_DEVICE: Final = "ops"
EXPERIENCE_CHARS_MAX: Final = 100
TOKEN_CHARS_MAX: Final = 4_096
SESSION_ID_CHARS_MAX: Final = 64
QUERY_ID_CHARS_MAX: Final = 64
CLIENT_CHARS_MAX: Final = 200
CURSOR_CHARS_MAX: Final = 256
QUERY_LIMIT_MAX: Final = 100

# Events.
EVENT_TYPE_CHARS_MAX: Final = 50
CONTENT_ID_CHARS_MAX: Final = 255
LAT_MAX: Final = 90.0
LNG_MAX: Final = 180.0

# Effects and the state.
EFFECTS_MAX: Final = 16
NAME_CHARS_MAX: Final = 64
KEY_CHARS_MAX: Final = 128
SET_MEMBER_CHARS_MAX: Final = 128
VALUE_BYTES_MAX: Final = 8_192
VALUE_DEPTH_MAX: Final = 16
# Items of arrays and entries of maps, in the data and the values of one update together. Each costs us half a
# microsecond and a hostile client only a byte; no value of 8 KiB can have more.
UPDATE_ITEMS_MAX: Final = 4_096
INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**63 - 1
COUNTER_SCALE: Final = 1_000_000
COUNTER_MAX: Final = 9_000_000_000
MILLIONTHS_MAX: Final = COUNTER_MAX * COUNTER_SCALE
STATE_FIELDS_MAX: Final = 4_000
# The path of a counter: a name, or group and key.
BOARD_CHARS_MAX: Final = NAME_CHARS_MAX + 1 + KEY_CHARS_MAX
STATE_BYTES_MAX: Final = 65_536

# Lua numbers are doubles: a counter in millionths must be exact in one.
assert MILLIONTHS_MAX < 2**53
# The shortest item of an array is a digit and a comma: any value that is small enough has few enough items.
assert UPDATE_ITEMS_MAX >= VALUE_BYTES_MAX // 2
# A value sits under frame, updates, update, effects, effect: the decoder must let it through.
assert VALUE_DEPTH_MAX + 5 < DECODE_DEPTH_MAX

# Times.
HELLO_TIMEOUT_S: Final = 10
HEARTBEAT_S: Final = 20
HEARTBEATS_MISSED_MAX: Final = 2
LEAVE_TIMEOUT_S: Final = 10

WELCOME_LIMITS: Final[dict[str, int]] = {
    "update_bytes_max": UPDATE_BYTES_MAX,
    "frame_bytes_max": FRAME_BYTES_MAX,
    "batch_updates_max": BATCH_UPDATES_MAX,
    "effects_max": EFFECTS_MAX,
    "value_bytes_max": VALUE_BYTES_MAX,
    "state_fields_max": STATE_FIELDS_MAX,
    "state_bytes_max": STATE_BYTES_MAX,
}
