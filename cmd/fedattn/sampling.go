package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"fedattn/cmd/fedattn/assistant"
	"fedattn/llama"
)

// maxFactor is beyond any sensible temperature or penalty, and keeps out what is no number.
const maxFactor = 100

// maxGrammar bounds, in bytes, a grammar or schema.
const maxGrammar = 1 << 20

// answerFlags say how an answer is chosen. Their names are llama.cpp's.
func answerFlags() []cli.Flag {
	const answer = "Answer"
	return []cli.Flag{
		&cli.StringFlag{Name: "system", Usage: "system `PROMPT`; every device evaluates it", Category: answer},
		&cli.IntFlag{Name: "predict", Aliases: []string{"n"}, Value: 256, Usage: "answer with at most `N` tokens", Category: answer},
		&cli.Float64Flag{Name: "temp", Usage: "`TEMPERATURE`; 0 always takes the most likely token", Category: answer},
		&cli.IntFlag{Name: "top-k", Value: 40, Usage: "sample from the `K` most likely tokens", Category: answer},
		&cli.Float64Flag{Name: "top-p", Value: 0.95, Usage: "sample from the most likely tokens with this `SHARE` of probability", Category: answer},
		&cli.Float64Flag{Name: "min-p", Value: 0.05, Usage: "sample from tokens with this `SHARE` of the best one's probability", Category: answer},
		&cli.Float64Flag{Name: "repeat-penalty", Value: 1, Usage: "`PENALTY` of repeated tokens; 1 is none", Category: answer},
		&cli.IntFlag{Name: "seed", Value: -1, Usage: "`SEED` of sampling; -1 is another one each time", Category: answer},
		&cli.IntFlag{Name: "repeat-last-n", Value: 64, Usage: "penalties look back on `N` tokens", Category: answer},
		&cli.Float64Flag{Name: "presence-penalty", Usage: "`PENALTY` of tokens that were there; 0 is none", Category: answer},
		&cli.Float64Flag{Name: "frequency-penalty", Usage: "`PENALTY` for each time that a token was there; 0 is none", Category: answer},
		&cli.StringFlag{Name: "grammar-file", Usage: "answer only what the GBNF grammar in `FILE` allows", Category: answer},
		&cli.StringFlag{Name: "json-schema", Aliases: []string{"j"}, Usage: "answer only JSON that the `SCHEMA` allows; {} is any", Category: answer},
		&cli.StringFlag{Name: "json-schema-file", Aliases: []string{"jf"}, Usage: "the same with the schema in `FILE`", Category: answer},
	}
}

// checkSampling finds mistakes in the values of answerFlags.
func checkSampling(c *cli.Context) error {
	given := 0
	for _, name := range []string{"grammar-file", "json-schema", "json-schema-file"} {
		if c.String(name) != "" {
			given++
		}
	}
	if given > 1 {
		return usagef("--grammar-file, --json-schema and --json-schema-file exclude each other: choose one")
	}
	return first(atLeast(c, 0, "top-k", "repeat-last-n"), atLeast(c, -1, "seed"), between(c, 0, 1, "top-p", "min-p"),
		between(c, 0, maxFactor, "temp", "repeat-penalty"), between(c, -maxFactor, maxFactor, "presence-penalty", "frequency-penalty"))
}

// sampling is what answerFlags say.
func sampling(c *cli.Context) (s assistant.Sampling, err error) {
	seed := uint32(c.Int("seed"))
	if c.Int("seed") < 0 {
		seed = uint32(time.Now().UnixNano())
	}
	s = assistant.Sampling{Limit: c.Int("predict"), Sampling: llama.Sampling{
		Seed: seed, Temperature: float32(c.Float64("temp")), TopK: c.Int("top-k"), TopP: float32(c.Float64("top-p")),
		MinP: float32(c.Float64("min-p")), RepeatLastN: c.Int("repeat-last-n"), RepeatPenalty: float32(c.Float64("repeat-penalty")),
		PresencePenalty: float32(c.Float64("presence-penalty")), FrequencyPenalty: float32(c.Float64("frequency-penalty")),
	}}
	s.Grammar, err = grammar(c)
	return s, err
}

// grammar is the one that the answer has to obey, empty if there is none.
func grammar(c *cli.Context) (string, error) {
	schema := c.String("json-schema")
	switch {
	case c.String("grammar-file") != "":
		return readGrammar("grammar-file", c.String("grammar-file"))
	case c.String("json-schema-file") != "":
		text, err := readGrammar("json-schema-file", c.String("json-schema-file"))
		if err != nil {
			return "", err
		}
		schema = text
	case schema == "":
		return "", nil
	}
	g, err := llama.GrammarOf(schema)
	if err != nil {
		return "", fmt.Errorf("%s; mend the schema", engineText(err))
	}
	return g, nil
}

func readGrammar(flag, path string) (string, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("no such file: %s; give an existing one with --%s", path, flag)
	case err != nil:
		return "", err
	case info.Size() > maxGrammar:
		return "", fmt.Errorf("%s has more than %d KiB: give a smaller one with --%s", path, maxGrammar>>10, flag)
	}
	return readText(flag, path)
}
