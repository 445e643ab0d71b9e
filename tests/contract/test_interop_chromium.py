"""Data channels to and from Chromium: SDP by HTTP, then 20 MB each way, checked by digest in the page and here."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from chromium import Page, browsing
from interop import PIECE, SIZE, both_ways
from sdp_channel import answer_sdp, offer_sdp

from transfer.errors import PeerLost
from transfer.ice_urls import IceServers
from transfer.transports import sdp
from transfer.transports.data_channel import DataChannel

PAGE = """<!doctype html><title>xfer</title><script>
const SIZE = %d, PIECE = %d, FULL = 1 << 20;
const say = async (path, body) => (await fetch(path, {method: "POST", body})).text();
const until = (target, name) => new Promise(done => target.addEventListener(name, done, {once: true}));
const hex = bytes => [...new Uint8Array(bytes)].map(b => b.toString(16).padStart(2, "0")).join("");
const digest = async bytes => hex(await crypto.subtle.digest("SHA-256", bytes));
let asked;

async function described(pc) {
  await pc.setLocalDescription();
  while (asked.tells && pc.iceGatheringState !== "complete") await until(pc, "icegatheringstatechange");
  return pc.localDescription.sdp;
}

async function connect() {
  const pc = new RTCPeerConnection();
  if (asked.offers) {
    const channel = pc.createDataChannel("from the page");
    const sdp = await say("/offer?", await described(pc));
    await pc.setRemoteDescription({type: "answer", sdp});
    if (channel.readyState !== "open") await until(channel, "open");
    return channel;
  }
  const came = until(pc, "datachannel");
  await pc.setRemoteDescription({type: "offer", sdp: await say("/offered?", "")});
  await say("/answer", await described(pc));
  return (await came).channel;
}

async function send(channel) {
  const bytes = new Uint8Array(SIZE);
  for (let at = 0; at < SIZE; at += 65536) crypto.getRandomValues(bytes.subarray(at, at + 65536));
  channel.bufferedAmountLowThreshold = FULL / 2;
  for (let at = 0; at < SIZE; at += PIECE) {
    if (channel.bufferedAmount > FULL) await until(channel, "bufferedamountlow");
    channel.send(bytes.subarray(at, at + PIECE));
  }
  await say("/sent", await digest(bytes));
}

async function receive(channel) {
  const bytes = new Uint8Array(SIZE);
  let at = 0;
  await new Promise(done => channel.onmessage = event => {
    bytes.set(new Uint8Array(event.data), at);
    at += event.data.byteLength;
    if (at === SIZE) done();
  });
  await say("/received", await digest(bytes));
}

async function main() {
  asked = JSON.parse(await say("/how?", ""));
  const channel = await connect();
  channel.binaryType = "arraybuffer";
  let error = "no error";
  channel.onerror = event => error = event.error.message;
  const closed = until(channel, "close");
  await Promise.all([send(channel), receive(channel)]);
  if (await say("/then?", "") === "close") channel.close();
  await closed;
  await say("/closed", error);
}
main().catch(error => say("/failed", String(error && error.stack || error)));
</script>""" % (SIZE, PIECE)  # noqa: UP031 - the page is full of braces


async def connected(page: Page, *, page_offers: bool) -> tuple[DataChannel, str]:
    """Our end of the channel, and the page's SDP."""
    said: list[str] = []

    async def tell(answer: str) -> None:
        page.tell("/offer?", answer)

    async def exchange(offer: str) -> str:
        page.tell("/offered?", offer)
        said.append(await page.hear("/answer"))
        return said[0]

    if page_offers:
        said.append(await page.hear("/offer?"))
        channel = await answer_sdp(said[0], tell, IceServers(), deadline=30)
    else:
        channel = await offer_sdp(exchange, IceServers(), deadline=60)
    assert isinstance(channel, DataChannel)
    return channel, said[0]


@pytest.mark.parametrize(
    ("page_offers", "addresses", "page_closes"),
    [
        (True, "names", True),
        pytest.param(False, "plain", False, marks=pytest.mark.long),
        pytest.param(False, "names", True, marks=pytest.mark.long),
        pytest.param(True, "plain", False, marks=pytest.mark.long),
        pytest.param(True, "none", True, marks=pytest.mark.long),
        pytest.param(False, "none", False, marks=pytest.mark.long),
    ],
)
async def test_20_mb_cross_both_ways(
    tmp_path: Path, page_offers: bool, addresses: str, page_closes: bool
) -> None:
    """addresses: the page states them, or puts names in their place as it does by default, or says none at all."""
    async with browsing(PAGE, tmp_path, hiding=addresses != "plain") as page:
        offers, tells = ("true" if it else "false" for it in (page_offers, addresses != "none"))
        page.tell("/how?", f'{{"offers": {offers}, "tells": {tells}}}')
        channel, theirs = await connected(page, page_offers=page_offers)
        try:
            candidates = sdp.read(theirs).description.candidates
            assert bool(candidates) == (addresses != "none")
            assert all((".local" in line) == (addresses == "names") for line in candidates)
            assert await both_ways(channel) == (await page.hear("/received"), await page.hear("/sent"))
            page.tell("/then?", "close" if page_closes else "wait")
            if page_closes:
                async with asyncio.timeout(10):
                    with pytest.raises(PeerLost, match="the peer closed the channel"):
                        await channel.receive()
        finally:
            await channel.close()
        assert await page.hear("/closed") == "no error"
