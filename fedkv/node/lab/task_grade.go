package lab

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"fedattn/fedkv"
	"fedattn/fedkv/task"
)

// taskQuestion is a problem in tokens, its right answer included.
type taskQuestion struct {
	prompt  Prompt
	answers [][2]int // half-open ranges of the publisher's segment that the model has to write
}

func newTaskQuestion(e Engine, begin []fedkv.Token, p task.Problem) (taskQuestion, error) {
	var failed error
	tokens := func(text string) []fedkv.Token {
		t, err := e.Tokenize(text)
		failed = errors.Join(failed, err)
		return t
	}
	q := taskQuestion{prompt: Prompt{Prefix: slices.Concat(begin, tokens(p.Header))}}
	for _, s := range p.Segments {
		q.prompt.Segments = append(q.prompt.Segments, tokens(s))
	}
	own := tokens(p.Question)
	for _, part := range p.Parts {
		lead := tokens(part.Lead)
		// a tokeniser may write a word otherwise where a text begins, so the answer is cut from the whole
		whole := tokens(part.Lead + part.Answer)
		if len(whole) <= len(lead) || !slices.Equal(whole[:len(lead)], lead) {
			whole = slices.Concat(lead, tokens(part.Answer))
		}
		q.answers = append(q.answers, [2]int{len(own) + len(lead), len(own) + len(whole)})
		own = append(own, whole...)
	}
	q.prompt.Segments = append(q.prompt.Segments, own)
	return q, failed
}

// taskScores has an entry for each problem.
type taskScores struct {
	exact, nll  []float64
	runs        []Result // of sessions, without logits
	contributed int      // tokens
}

// add grades the logits of the publisher's segment, [own tokens][vocabulary]. The right answer is part of the segment,
// which comes to the same as writing it and saves a second session: greedy decoding writes it exactly if each of its
// tokens is the most likely one after those before it.
func (s *taskScores) add(e Engine, q taskQuestion, logits []float32) error {
	own, vocabulary := q.prompt.Own(), e.Vocabulary()
	row := func(i int) []float32 { return logits[i*vocabulary : (i+1)*vocabulary] }
	exact, nll := 1.0, 0.0
	for _, a := range q.answers {
		for i := a[0]; i < a[1]; i++ {
			loss, top := surprise(row(i-1), own[i])
			if math.IsNaN(loss) || math.IsInf(loss, 0) {
				return fmt.Errorf("the likelihood of token %d of the publisher's segment is not a number", i)
			}
			nll += loss
			if top != own[i] {
				exact = 0
			}
		}
		if _, next := surprise(row(a[1]-1), 0); continuesWord(e.Piece(next)) {
			exact = 0 // the model would write a longer word or number
		}
	}
	s.exact, s.nll = append(s.exact, exact), append(s.nll, nll)
	return nil
}

// surprise is a token's negative log-likelihood in nats, and the most likely token, the first of equals.
func surprise(logits []float32, t fedkv.Token) (nll float64, top fedkv.Token) {
	best := 0
	for i, v := range logits {
		if v > logits[best] {
			best = i
		}
	}
	sum := 0.0
	for _, v := range logits {
		sum += math.Exp(float64(v) - float64(logits[best]))
	}
	return math.Log(sum) - (float64(logits[t]) - float64(logits[best])), fedkv.Token(best)
}

// continuesWord says whether a piece of text goes on with the word or number before it.
func continuesWord(piece []byte) bool {
	if len(piece) == 0 {
		return false
	}
	c := piece[0]
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c >= 0x80
}
