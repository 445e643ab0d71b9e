"""One end of a data channel by libdatachannel, as a program: a line of JSON in, a line of JSON out.

In a process of its own, because `close` of pylibdatachannel may hang for good: it holds Python's lock while it waits
for a thread of libdatachannel, which waits for Python's lock.
"""

from __future__ import annotations

import hashlib
import json
import queue
import secrets
import sys
import time
from typing import Any

import pylibdatachannel as lib


def main(size: int, piece: int) -> None:
    gathered: queue.Queue[None] = queue.Queue()
    channels: queue.Queue[Any] = queue.Queue()
    messages: queue.Queue[bytes] = queue.Queue()

    def opened(channel: Any) -> None:
        channel.on_message(messages.put)
        channels.put(channel)

    def description() -> str:
        gathered.get(timeout=10)
        return str(peer.local_description)

    peer = lib.PeerConnection(lib.Configuration([]))
    peer.on_gathering_state_change(
        lambda state: gathered.put(None) if state == lib.GatheringState.COMPLETE else None
    )
    peer.on_data_channel(opened)
    channel: Any = None
    for line in sys.stdin:
        match json.loads(line):
            case ["offer"]:
                opened(peer.create_data_channel("from libdatachannel"))
                answer = description()
            case ["answer", offer]:
                peer.set_remote_description(lib.Description(offer, lib.DescriptionType.OFFER))
                answer = description()
            case ["accept", text]:
                peer.set_remote_description(lib.Description(text, lib.DescriptionType.ANSWER))
                answer = ""
            case ["send"]:
                channel = channels.get(timeout=10)
                while not channel.is_open:
                    time.sleep(0.01)
                data = secrets.token_bytes(size)
                for at in range(0, size, piece):
                    channel.send(data[at : at + piece])
                answer = hashlib.sha256(data).hexdigest()
            case ["receive"]:
                digest, left = hashlib.sha256(), size
                while left > 0:
                    message = messages.get(timeout=60)
                    digest.update(message)
                    left -= len(message)
                answer = digest.hexdigest()
            case ["close"]:
                channel.close()
                answer = ""
        print(json.dumps(answer), flush=True)


main(int(sys.argv[1]), int(sys.argv[2]))
