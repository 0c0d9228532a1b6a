package apitest

import (
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	llama "github.com/go-skynet/go-llama.cpp"
)

func TestTokenCallbackStops(t *testing.T) {
	l := model(t)
	whole := pieces(t, l, question, greedy())
	calls := 0
	got := predict(t, l, question, llama.SetTokenCallback(func(string) bool {
		calls++
		return calls < 3
	}))
	if want := strings.Join(whole[:2], ""); calls != 3 || got != want {
		t.Errorf("stopped at the third token: %d calls, %q, want %q", calls, got, want)
	}
}

// The model's callback hears all calls but those that bring their own, and one call's callback does not stay.
func TestTokenCallbackOfTheModel(t *testing.T) {
	l := load(t)
	var model, option int
	l.SetTokenCallback(func(string) bool { model++; return true })
	predict(t, l, question, llama.SetTokens(3))
	if model != 3 {
		t.Errorf("%d calls, want 3", model)
	}
	predict(t, l, question, llama.SetTokens(3), llama.SetTokenCallback(func(string) bool { option++; return true }))
	if model != 3 || option != 3 {
		t.Errorf("%d and %d calls, want 3 and 3", model, option)
	}
	predict(t, l, question, llama.SetTokens(3))
	if model != 6 {
		t.Errorf("%d calls, want 6", model)
	}
	l.SetTokenCallback(func(string) bool {
		model++
		l.SetTokenCallback(nil) // while the call is running
		return true
	})
	predict(t, l, question, llama.SetTokens(3))
	if model != 7 {
		t.Errorf("%d calls, want 7", model)
	}
}

func TestCallbackCannotEvaluateOnItsModel(t *testing.T) {
	l := model(t)
	var inner error
	predict(t, l, question, llama.SetTokens(2), llama.SetTokenCallback(func(string) bool {
		inner = l.Eval("x")
		return true
	}))
	wantError(t, inner, "busy")
}

func TestCallbackPanicsInTheCaller(t *testing.T) {
	l := model(t)
	want := predict(t, l, question)
	func() {
		defer func() {
			if r := recover(); r != "from the callback" {
				t.Errorf("recovered %v", r)
			}
		}()
		predict(t, l, question, llama.SetTokenCallback(func(string) bool { panic("from the callback") }))
	}()
	if got := predict(t, l, question); got != want {
		t.Errorf("after a panic: %q, want %q", got, want)
	}
}

// After a call nothing holds its callback: whatever it caught can be collected.
func TestCallbacksAreForgotten(t *testing.T) {
	l := load(t)
	const calls = 8
	forgotten := make(chan bool, calls)
	for i := 0; i < calls; i++ {
		count := new([64]int)
		runtime.SetFinalizer(count, func(*[64]int) { forgotten <- true })
		opts := greedy(llama.SetTokens(2), llama.SetTokenCallback(func(string) bool { count[0]++; return true }))
		if i%2 == 0 {
			text(t, l, question, opts)
		} else if _, err := l.Predict(question, append(opts, llama.SetMirostat(9))...); err == nil {
			t.Fatal("mirostat 9 is no error")
		}
	}
	deadline := time.After(10 * time.Second)
	for i := 0; i < calls; i++ {
		runtime.GC()
		select {
		case <-forgotten:
		case <-deadline:
			t.Fatalf("%d of %d callbacks are still held", calls-i, calls)
		}
	}
}

// The program's own handling of Ctrl-C is the one that runs, during a call and after it.
func TestNoSignalHandlerIsInstalled(t *testing.T) {
	l := model(t)
	interrupts := make(chan os.Signal, 2)
	signal.Notify(interrupts, os.Interrupt)
	defer signal.Stop(interrupts)
	interrupt := func() {
		if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		select {
		case <-interrupts:
		case <-time.After(10 * time.Second):
			t.Error("SIGINT did not arrive")
		}
	}
	predict(t, l, question, llama.SetTokens(1), llama.SetTokenCallback(func(string) bool { interrupt(); return true }))
	interrupt()
}
