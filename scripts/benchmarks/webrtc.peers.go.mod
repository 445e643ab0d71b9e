// What `scripts/bench webrtc` measures beside xfer and is made with go.
module bench

go 1.22

require github.com/schollz/croc/v10 v10.2.2
