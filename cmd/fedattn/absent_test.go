//go:build unix

package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"fedattn/fedkv/fedkvtest"
)

// forms are how a text could stand in a file.
func forms(text string) (list [][]byte) {
	var wide []byte
	for _, b := range []byte(text) {
		wide = append(wide, b, 0)
	}
	list = append(list, []byte(text), wide, []byte(hex.EncodeToString([]byte(text))))
	for skip := range 3 { // base64 of it in the middle of something
		encoded := base64.StdEncoding.EncodeToString(append(make([]byte, skip), text...))
		list = append(list, []byte(encoded[4:len(encoded)-4]))
	}
	return list
}

// holders are the files below a directory that hold any of the texts in any form.
func holders(t *testing.T, dir string, texts []string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, text := range texts {
			for _, form := range forms(text) {
				if bytes.Contains(content, form) {
					rel, _ := filepath.Rel(dir, path)
					files = append(files, rel)
					return nil
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// No text leaves its device or stays anywhere but in its own file: not on the links before encryption, as text or as
// tokens, not in logs, computed rows, receipts or anything else on disk, and not in the core of a node that crashes.
// FEDATTN_T10_N is how many texts are looked for, in rounds of ten.
func TestTextsStayWhereTheyAre(t *testing.T) {
	const perNode = 8
	trials := fedkvtest.NewTrials(t, "T10", 10)
	for i := range (trials.N + perNode + 1) / (perNode + 2) {
		seed := trials.Seed + uint64(i)
		random := rand.New(rand.NewPCG(seed, 10))
		word := func() string {
			var b strings.Builder
			for range 24 {
				b.WriteByte("abcdefghijklmnopqrstuvwxyz"[random.IntN(26)])
			}
			return b.String()
		}
		w := newWorkplace(t)
		model := w.write("tiny.gguf", tinyTransformer(tinyTemplate, 1, hugeContext))
		var texts, own []string
		doc := func(name string) string {
			texts, own = append(texts, word()), append(own, name)
			return w.write(name, []byte("It is "+texts[len(texts)-1]+"."))
		}
		flags := []string{"node", "--model", model, "--threads", "1", "--context", "2000", "--name", "garden", "--config", "garden", "--listen", "127.0.0.1:0"}
		// half of them by name, half in a folder
		if err := os.MkdirAll(w.path("folder/deep"), 0o700); err != nil {
			t.Fatal(err)
		}
		for n := range perNode / 2 {
			flags = append(flags, "--doc", doc(fmt.Sprintf("text%d.txt", n)))
			doc(fmt.Sprintf("folder/deep/text%d.txt", n))
		}
		flags = append(flags, "--docs", w.path("folder"))
		// whoever wants a core of it has set everything for that
		limit := syscall.Rlimit{}
		if err := syscall.Getrlimit(syscall.RLIMIT_CORE, &limit); err == nil {
			limit.Cur = limit.Max
			_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &limit)
		}
		p, address, err := start(w.dir, append(isolated(w.dir), "GOTRACEBACK=crash"), w.path("garden.log"), flags...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.kill)
		question := word()
		texts = append(texts, question)
		c := w.command("ask", "--model", model, "--threads", "1", "--context", "2000", "--config", "asker", "--predict", "4", "--verbose",
			"--record", "wire", "--doc", doc("own.txt"), "--peer", address, "What is "+question+"?")
		var said bytes.Buffer
		c.Stderr = &said
		if err := c.Run(); err != nil {
			t.Fatalf("%v: %s", err, &said)
		}
		w.write("asker.log", said.Bytes())
		asked := w.write("question.txt", []byte("What is "+question+"?"))
		own = append(own, "question.txt")

		found := error(nil)
		inspect := []string{"inspect", "--model", model, "--threads", "1", "--absent", asked}
		for _, name := range own {
			inspect = append(inspect, "--absent", w.path(name))
		}
		if out, err := w.command(append(inspect, "wire")...).CombinedOutput(); err != nil {
			found = fmt.Errorf("the links: %v: %s", err, out)
		}
		if err := p.Process.Signal(syscall.SIGABRT); err != nil {
			t.Fatal(err)
		}
		select {
		case <-p.ended:
		case <-time.After(firstOutput):
			t.Fatal("it does not crash")
		}
		status, ok := p.ProcessState.Sys().(syscall.WaitStatus)
		if ok && status.CoreDump() {
			found = fmt.Errorf("the node left a core")
		}
		crashed := ok && (status.Signaled() || status.ExitStatus() == 2)
		var stray []string
		for _, file := range holders(t, w.dir, texts) {
			if !strings.HasSuffix(file, ".txt") {
				stray = append(stray, file)
			}
		}
		if len(stray) > 0 {
			found = fmt.Errorf("on disk: %v", stray)
		}
		// the search has to find what is there
		finds := len(holders(t, w.dir, texts)) == len(own)
		for range texts {
			trials.Run(t, "a text", finds && crashed, found)
			found = nil // counted once
		}
	}
	trials.Report(t)
}
