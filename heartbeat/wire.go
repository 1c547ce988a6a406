package heartbeat

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"

	"weir/weir"
)

// A datagram, in network byte order:
//
//	 0  version, 1
//	 1  kind: 1 a beat, 2 an answer
//	 2  number of the beat, 8 bytes; an answer repeats it
//	10  in an answer: flags (1 serving, 2 holding), revision (8 bytes), servers up (4 bytes)
//	    then, in both: length of the sender's ID (1 byte), the ID, and
//	    the first 16 bytes of the HMAC-SHA256 of all that
//
// Numbers begin at a random one when a monitor starts, and rise by one with each beat.
const (
	version     = 1
	kindBeat    = 1
	kindAnswer  = 2
	flagServing = 1
	flagHolding = 2

	headSize   = 10
	answerSize = 13
	macSize    = 16
	maxID      = 255
	maxSize    = headSize + answerSize + 1 + maxID + macSize
)

// message is a datagram, parsed. Its ID lies in the buffer that it was parsed from.
type message struct {
	kind   byte
	seq    uint64
	answer Answer
	id     []byte
}

// seal makes and checks datagrams with one key.
type seal struct {
	mac hash.Hash
	sum [sha256.Size]byte
}

func newSeal(key []byte) *seal {
	return &seal{mac: hmac.New(sha256.New, key)}
}

// append appends a datagram to buf.
func (s *seal) append(buf []byte, kind byte, seq uint64, answer Answer, id weir.ID) []byte {
	start := len(buf)
	buf = append(buf, version, kind)
	buf = binary.BigEndian.AppendUint64(buf, seq)
	if kind == kindAnswer {
		var flags byte
		if answer.Serving {
			flags |= flagServing
		}
		if answer.Holding {
			flags |= flagHolding
		}
		buf = append(buf, flags)
		buf = binary.BigEndian.AppendUint64(buf, uint64(answer.Revision))
		buf = binary.BigEndian.AppendUint32(buf, uint32(answer.Up))
	}
	buf = append(buf, byte(len(id)))
	buf = append(buf, id...)
	return append(buf, s.of(buf[start:])...)
}

// of returns the code of text, until the next call.
func (s *seal) of(text []byte) []byte {
	s.mac.Reset()
	s.mac.Write(text)
	return s.mac.Sum(s.sum[:0])[:macSize]
}

// open parses a datagram. It reports whether it is one and was made with s's key.
func (s *seal) open(buf []byte) (m message, ok bool) {
	if len(buf) < headSize+1+macSize || len(buf) > maxSize || buf[0] != version {
		return m, false
	}
	text, mac := buf[:len(buf)-macSize], buf[len(buf)-macSize:]
	m.kind, m.seq = text[1], binary.BigEndian.Uint64(text[2:])
	rest := text[headSize:]
	switch m.kind {
	case kindBeat:
	case kindAnswer:
		if len(rest) < answerSize {
			return m, false
		}
		m.answer = Answer{
			Serving:  rest[0]&flagServing != 0,
			Holding:  rest[0]&flagHolding != 0,
			Revision: int64(binary.BigEndian.Uint64(rest[1:])),
			Up:       int(binary.BigEndian.Uint32(rest[9:])),
		}
		rest = rest[answerSize:]
	default:
		return m, false
	}
	if len(rest) < 1 || len(rest) != 1+int(rest[0]) {
		return m, false
	}
	m.id = rest[1:]
	return m, hmac.Equal(s.of(text), mac)
}

// quoted returns the number of the beat by id that an error of the kernel quotes. All of
// it must be there, and be as we made it.
func (s *seal) quoted(buf []byte, id weir.ID) (seq uint64, ok bool) {
	m, ok := s.open(buf)
	return m.seq, ok && m.kind == kindBeat && bytes.Equal(m.id, []byte(id))
}

// seen remembers the last datagrams that it was asked about.
type seen struct {
	codes map[uint64]struct{}
	order [512]uint64
	next  int
}

// again reports whether the datagram, which must be a good one, was asked about lately.
func (s *seen) again(datagram []byte) bool {
	code := binary.BigEndian.Uint64(datagram[len(datagram)-macSize:])
	if _, ok := s.codes[code]; ok {
		return true
	}
	if s.codes == nil {
		s.codes = make(map[uint64]struct{}, len(s.order))
	}
	if len(s.codes) == len(s.order) {
		delete(s.codes, s.order[s.next])
	}
	s.codes[code] = struct{}{}
	s.order[s.next] = code
	s.next = (s.next + 1) % len(s.order)
	return false
}
