package bench

import (
	"fmt"
	"strings"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

// questions are asked in turn: what follows a prompt whose rows were kept is another question.
var questions = []string{"What was repaired on day 7, and who painted the gates?", "What was painted on day 9, and who repaired the pumps?"}

// system is public, and another one for each number, so that nobody has rows behind it.
func system(number int) string {
	return fmt.Sprintf("You answer from the notes. Measurement %04d.", number%10000)
}

// documentOf is a text that comes to so many tokens as a device's segment, or one or two fewer where words cannot be cut
// like that. It is the same for the same name.
func documentOf(e node.Engine, device string, tokens int) (node.Document, int, error) {
	var words []string
	for day := 1; len(words) <= tokens; day++ { // a word is a token at least
		words = append(words, strings.Fields(fmt.Sprintf("Day %d: bench %s repaired %d pumps and painted %d gates.",
			day, device, (day*7+len(device))%13, (day*5+3)%11))...)
	}
	var failed error
	count := func(text string) int {
		d, err := node.NewDocuments(e, device, []node.Document{{Text: text}})
		if err != nil {
			failed = err
			return tokens + 1
		}
		return d.Tokens()
	}
	low, high := 0, len(words) // so many words fit, so many do not
	for high-low > 1 {
		if middle := (low + high) / 2; count(strings.Join(words[:middle], " ")) <= tokens {
			low = middle
		} else {
			high = middle
		}
	}
	text := strings.Join(words[:low], " ")
	have := count(text)
	for _, word := range []string{" and", " so", " on", " it", " is"} {
		if n := count(text + word); n <= tokens && n > have {
			text, have = text+word, n
		}
	}
	switch {
	case failed != nil:
		return node.Document{}, 0, failed
	case low == 0:
		return node.Document{}, 0, fmt.Errorf("%d tokens are too few for a device's part of a prompt: measure a longer one, or fewer devices", tokens)
	}
	return node.Document{Name: device, Text: text}, have, nil
}

// parts are a prompt's tokens, device by device.
type parts struct {
	documents []node.Document // the asking device's comes last
	shares    []int           // their tokens
	tokens    int             // of everything, prefix and question included
}

// divide cuts a prompt into equal parts, but for what the question and the public prefix take.
func divide(e node.Engine, prompt, devices, frame int) (p parts, err error) {
	left := prompt - frame
	p.tokens = frame
	for i := range devices {
		share := left / (devices - i)
		d, n, err := documentOf(e, deviceName(devices, i), share)
		if err != nil {
			return p, fmt.Errorf("a prompt of %d tokens for %d devices: %w", prompt, devices, err)
		}
		left -= n
		p.tokens += n
		p.documents, p.shares = append(p.documents, d), append(p.shares, n)
	}
	return p, nil
}

// deviceName of the contributors, and of the asker, which is the last.
func deviceName(devices, i int) string {
	if i == devices-1 {
		return "asker"
	}
	return fmt.Sprintf("device %d", i+2)
}

// randomTokens are what a prompt on one device consists of, as llama-bench has it. Equal lengths are equal tokens.
func someTokens(vocabulary, n int) []fedkv.Token {
	tokens := make([]fedkv.Token, n)
	state := uint32(1)
	for i := range tokens {
		state = state*1664525 + 1013904223 // a linear congruential generator
		tokens[i] = fedkv.Token(int(state>>8) % vocabulary)
	}
	return tokens
}
