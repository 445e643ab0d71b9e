"""SCTP as WebRTC uses it (RFC 9260, RFC 8831), sans-IO: `Association` is a state machine with time as an argument.

    packet       chunks on the wire
    sending      the send side and its scoreboard
    receiving    the receive side, gaps, messages put together
    timing       round trips, loss detection (RACK, tail probe), timeouts
    congestion   which controller, and what each answers: `cubic` on the shortest paths, `model` on all others
    pmtu         the size of packets
    liveness     whether the peer is still there
    resets       the end of streams
    dcep         data channels
    handshake    how two ends come to know each other
    outbox       what is said besides data
    association  timers, and all of it together

Implemented: the four-way handshake from either or both ends, or none where both know the other's INIT; ordered and
unordered messages on any number of streams; acknowledgement with gaps; retransmission by time; both controllers
with pacing; a receive window in both directions; the search for the path's MTU; reset of streams, by either end.

Not implemented, as no WebRTC data channel of ours needs it: several addresses a peer (ICE does that below us), ASCONF,
AUTH (DTLS is below us), partial reliability and interleaving (they are offered in INIT, and we do not offer them), ECN
(not seen through ICE), a stateless cookie (nobody reaches us but the peer that DTLS has verified), half-closed
shutdown (data channels end by stream resets, we by ABORT once everything is acknowledged).
"""
