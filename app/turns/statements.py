"""The statements of turns.sql, by their names."""

from pathlib import Path

from app.db.sql import statements

_found = statements(Path(__file__).with_name("turns.sql"))

OPEN_TURN = _found["open_turn"]
CLOSE_TURN = _found["close_turn"]
PARENT = _found["parent"]
PIECES = _found["pieces"]
FORGET_RESPONSE = _found["forget_response"]
MESSAGES = _found["messages"]
CHAIN = _found["chain"]
GET_TURN = _found["get_turn"]
TURNS = _found["turns"]
CALLS = _found["calls"]
SENT_INPUT = _found["sent_input"]
SENT_PIECES = _found["sent_pieces"]
BRANCHES = _found["branches"]
IN_HISTORY = _found["in_history"]
NUMBER_OF_TURN = _found["number_of_turn"]
ITEMS = _found["items"]
REFERENCED = _found["referenced"]
CLOSED_AS = _found["closed_as"]
SAME_KEY = _found["same_key"]
FREE_KEY = _found["free_key"]
CLIENT_LEFT = _found["client_left"]
CLAIM_FIRST_ATTEMPT = _found["claim_first_attempt"]
REQUEST_CANCEL = _found["request_cancel"]
CANCELLED = _found["cancelled"]
RENEW_LEASES = _found["renew_leases"]
EXPIRED = _found["expired"]
TAKE_EXPIRED = _found["take_expired"]
QUEUE = _found["queue"]
LEAVE_QUEUE = _found["leave_queue"]
ACTIVE_TURN = _found["active_turn"]
FIND_THREAD = _found["find_thread"]
THREAD_OF_TURN = _found["thread_of_turn"]
TURNS_AFTER = _found["turns_after"]
TURNS_BEFORE = _found["turns_before"]
