package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"fedattn/llama"
	"fedattn/models/hub/hubtest"
)

// In these tests fedattn is a process of its own: this test binary under that name, which runs main. Scripts of
// testdata/script say what the commands do with models of a few kilobytes (gguf_test.go), those of testdata/model with
// the model of the demo. Scripts have these commands besides testscript's own:
//
//	fails CODE fedattn …    exit code, nothing on stdout, one line on stderr
//	gguf KIND FILE          write a tiny model, see ggufKinds
//	capture NAME            put the last command's stdout into an environment variable
//	hub FILE…               a hub of models on this machine whose user/repo has these files; FEDATTN_HUB names it
//	occupy NAME             take a UDP port of 127.0.0.1 until the script ends; NAME is its number
//	node NAME flags…        start a node and wait for it; $NAME is its $NAME_ID@$NAME_AT, NAME.log its stderr
//	begin NAME flags…       start any command and wait for its first line, which $NAME becomes; NAME.log is its stderr
//	background NAME flags…  start any command and wait for nothing; NAME.out is its stdout, NAME.log its stderr
//	ends NAME CODE          it ends by itself, with this exit code
//	free NAME               a UDP port of 127.0.0.1 that is free now; NAME is its number
//	keep NAME FILE          write $NAME to a file
//	spoil NAME TO           $TO is the invitation $NAME with another secret
//	noticed FILE REGEXP     wait until a file matches
//	terminate NAME          SIGTERM; it has to end with exit code 0 within two seconds
//	sigkill NAME            SIGKILL
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"fedattn": main})
}

var update = flag.Bool("update", false, "rewrite the expected output in the scripts")

func TestScript(t *testing.T) { runScripts(t, "script") }

// TestModel is about answers and logits, so it needs the model that `make model` brings.
func TestModel(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	if !haveEngine() {
		t.Skip("this build has no engine")
	}
	runScripts(t, "model")
}

func haveEngine() bool { return llama.Commit() != "none" }

// modelPath is the model of the demo.
func modelPath(t testing.TB) string {
	t.Helper()
	path := os.Getenv("FEDATTN_TEST_MODEL")
	if path == "" {
		path = filepath.Join("..", "..", "models", "SmolLM2-135M-Instruct.Q4_1.gguf")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("the test model is missing (`make model` brings it): %v", err)
	}
	return path
}

func runScripts(t *testing.T, folder string) {
	model := ""
	if folder == "model" {
		model = modelPath(t)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", folder),
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Vars = append(e.Vars, isolated(e.WorkDir)...)
			e.Vars = append(e.Vars, "MODEL="+model, "NOBODY="+nobody, "COMMIT="+llama.Commit())
			for name, content := range notText {
				if err := os.WriteFile(filepath.Join(e.WorkDir, name), content, 0o666); err != nil {
					return err
				}
			}
			nodes := nodes{}
			e.Values[nodesKey{}] = nodes
			e.Defer(nodes.killAll)
			return nil
		},
		Condition: func(condition string) (bool, error) {
			if condition == "engine" {
				return haveEngine(), nil
			}
			return false, fmt.Errorf("unknown condition %q", condition)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"fails": fails, "gguf": writeGGUF, "capture": capture, "occupy": occupy, "hub": startHub,
			"node": startNode, "begin": begin, "background": inBackground, "ends": ends, "free": free,
			"keep": keep, "spoil": spoil, "noticed": noticed, "terminate": terminate, "sigkill": sigkill,
		},
	})
}

// nobody is an ID of the right form that no key has.
var nobody = strings.Repeat("-AAAAAAA", 8)[1:]

// notText is in every script's directory: what a script cannot hold itself.
var notText = map[string][]byte{
	"binary": {'G', 'I', 'F', '8', 0, 1, 2, 3},
	"latin1": []byte("\xdcber den Fl\xfcssen"),
}

// isolated is an environment in which a process finds nothing of its user's.
func isolated(dir string) []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir,
		"XDG_CONFIG_HOME=" + filepath.Join(dir, ".config"), "XDG_CACHE_HOME=" + filepath.Join(dir, ".cache"),
		"XDG_RUNTIME_DIR=" + filepath.Join(dir, ".run"),
	}
}

func usage(ts *testscript.TestScript, neg, ok bool, text string) {
	if neg || !ok {
		ts.Fatalf("usage: %s", text)
	}
}

func fails(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) > 1, "fails CODE command…")
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case err == nil:
		ts.Fatalf("it succeeded")
	case !errors.As(err, &exit):
		ts.Fatalf("%v", err)
	case strconv.Itoa(exit.ExitCode()) != args[0]:
		ts.Fatalf("exit code %d", exit.ExitCode())
	}
	if out := ts.ReadFile("stdout"); out != "" {
		ts.Fatalf("it wrote to stdout")
	}
	text, ended := strings.CutSuffix(ts.ReadFile("stderr"), "\n")
	text, named := strings.CutPrefix(text, "fedattn: ")
	if !ended || !named || text == "" || strings.Contains(text, "\n") || strings.HasPrefix(text, "fedattn: ") {
		ts.Fatalf("stderr is not one line of the form 'fedattn: text'")
	}
	for _, inside := range []string{"goroutine ", "%!", "llama: ", "tap: ", "\x1b", "<nil>"} {
		if strings.Contains(text, inside) {
			ts.Fatalf("the error shows %q to the user", inside)
		}
	}
}

// ggufKinds are the models that scripts can have.
var ggufKinds = map[string]func() []byte{
	"tiny":      func() []byte { return tinyTransformer(tinyTemplate, 1, tinyContext) },
	"quantised": func() []byte { return tinyRounded(tinyTemplate, 1, tinyContext, 4) },  // the same model but for its weights
	"other":     func() []byte { return tinyTransformer(tinyTemplate, 2, tinyContext) }, // of the same shape, and trained otherwise
	"huge":      func() []byte { return tinyTransformer(tinyTemplate, 1, hugeContext) },
	"chatty":    func() []byte { return tinyTransformer("Hi! "+tinyTemplate, 1, tinyContext) },
	"base":      func() []byte { return tinyTransformer("", 1, tinyContext) }, // without a chat template
	"raising":   func() []byte { return tinyTransformer("{{ raise_exception('roles must alternate') }}", 1, tinyContext) },
	"recurrent": tinyRecurrent,
	"cut":       func() []byte { b := tinyTransformer(tinyTemplate, 1, tinyContext); return b[:len(b)/2] },
}

func writeGGUF(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2 && ggufKinds[args[0]] != nil, "gguf KIND FILE")
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), ggufKinds[args[0]](), 0o666))
}

func capture(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "capture NAME")
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

func startHub(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) > 0, "hub FILE…")
	files := map[string][]byte{}
	for _, name := range args {
		files[filepath.Base(name)] = []byte(ts.ReadFile(name))
	}
	h := hubtest.New(files)
	ts.Defer(h.Close)
	ts.Setenv("FEDATTN_HUB", h.URL)
}

func occupy(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "occupy NAME")
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { socket.Close() })
	ts.Setenv(args[0], strconv.Itoa(socket.LocalAddr().(*net.UDPAddr).Port))
}

func free(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "free NAME")
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(args[0], strconv.Itoa(socket.LocalAddr().(*net.UDPAddr).Port))
	ts.Check(socket.Close())
}

func keep(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "keep NAME FILE")
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(ts.Getenv(args[0])+"\n"), 0o600))
}

// spoil makes an invitation that is well-formed and wrong: another one's secret.
func spoil(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "spoil NAME TO")
	const other = "AAAAAAAAAAAAAAAAAAAAAAAAADHA" // sixteen zeros and their check byte
	secret := regexp.MustCompile(`:[A-Z2-7]{28}@`)
	ts.Setenv(args[1], secret.ReplaceAllString(ts.Getenv(args[0]), ":"+other+"@"))
}

func noticed(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "noticed FILE REGEXP")
	wanted := regexp.MustCompile(args[1])
	for deadline := time.Now().Add(firstOutput); ; time.Sleep(10 * time.Millisecond) {
		text, _ := os.ReadFile(ts.MkAbs(args[0]))
		if wanted.Match(text) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s does not match %s: %s", args[0], args[1], text)
		}
	}
}

// process is a fedattn that runs in the background.
type process struct {
	*exec.Cmd
	ended chan struct{}
}

// firstOutput is how long a background process may take to print its first line, on a busy machine.
const firstOutput = time.Minute

// start runs fedattn in a directory, with its stderr in a file, until the first line of its stdout.
func start(dir string, env []string, log string, args ...string) (p *process, line string, err error) {
	stderr, err := os.Create(log)
	if err != nil {
		return nil, "", err
	}
	defer stderr.Close()
	p = &process{exec.Command("fedattn", args...), make(chan struct{})}
	p.Dir, p.Env, p.Stderr = dir, env, stderr
	stdout, err := p.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	if err := p.Start(); err != nil {
		return nil, "", err
	}
	first := make(chan string, 1)
	go func() {
		in := bufio.NewReader(stdout)
		line, _ := in.ReadString('\n')
		first <- strings.TrimSpace(line)
		_, _ = in.WriteTo(devNull{})
		_ = p.Wait()
		close(p.ended)
	}()
	select {
	case line = <-first:
	case <-time.After(firstOutput):
	}
	if line == "" {
		p.kill()
		text, _ := os.ReadFile(log)
		return nil, "", fmt.Errorf("fedattn %s printed nothing:\n%s", strings.Join(args, " "), text)
	}
	return p, line, nil
}

type devNull struct{}

func (devNull) Write(b []byte) (int, error) { return len(b), nil }

func (p *process) kill() {
	_ = p.Process.Kill()
	<-p.ended
}

// end sends a signal and returns the exit code, or an error after the limit.
func (p *process) end(signal os.Signal, limit time.Duration) (int, error) {
	if err := p.Process.Signal(signal); err != nil {
		return 0, err
	}
	select {
	case <-p.ended:
		return p.ProcessState.ExitCode(), nil
	case <-time.After(limit):
		return 0, fmt.Errorf("it still runs %v after %v", limit, signal)
	}
}

// nodes of a script by name.
type nodes map[string]*process

type nodesKey struct{}

func (n nodes) killAll() {
	for _, p := range n {
		p.kill()
	}
}

func nodeOf(ts *testscript.TestScript, name string) *process {
	p := ts.Value(nodesKey{}).(nodes)[name]
	if p == nil {
		ts.Fatalf("there is no node %q", name)
	}
	return p
}

// stopLimit is how long a node may take to end when it is told to.
const stopLimit = 2 * time.Second

func startNode(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) > 0, "node NAME flags…")
	name := args[0]
	env := isolated(ts.Getenv("WORK"))
	listen := ts.Getenv("LISTEN")
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	flags := []string{"node", "--name", name, "--threads", "1", "--listen", listen, "--config", ts.MkAbs(name)}
	p, address, err := start(ts.MkAbs("."), env, ts.MkAbs(name+".log"), append(flags, args[1:]...)...)
	ts.Check(err)
	ts.Value(nodesKey{}).(nodes)[name] = p
	id, at, _ := strings.Cut(address, "@")
	ts.Setenv(name, address)
	ts.Setenv(name+"_ID", id)
	ts.Setenv(name+"_AT", at)
}

func begin(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) > 1, "begin NAME flags…")
	p, line, err := start(ts.MkAbs("."), isolated(ts.Getenv("WORK")), ts.MkAbs(args[0]+".log"), args[1:]...)
	ts.Check(err)
	ts.Value(nodesKey{}).(nodes)[args[0]] = p
	ts.Setenv(args[0], line)
}

func inBackground(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) > 1, "background NAME flags…")
	name := args[0]
	out, err := os.Create(ts.MkAbs(name + ".out"))
	ts.Check(err)
	defer out.Close()
	log, err := os.Create(ts.MkAbs(name + ".log"))
	ts.Check(err)
	defer log.Close()
	p := &process{exec.Command("fedattn", args[1:]...), make(chan struct{})}
	p.Dir, p.Env, p.Stdout, p.Stderr = ts.MkAbs("."), isolated(ts.Getenv("WORK")), out, log
	ts.Check(p.Start())
	go func() {
		_ = p.Wait()
		close(p.ended)
	}()
	ts.Value(nodesKey{}).(nodes)[name] = p
}

func ends(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "ends NAME CODE")
	p := nodeOf(ts, args[0])
	select {
	case <-p.ended:
	case <-time.After(firstOutput):
		ts.Fatalf("%s still runs", args[0])
	}
	if code := strconv.Itoa(p.ProcessState.ExitCode()); code != args[1] {
		ts.Fatalf("exit code %s: %s", code, ts.ReadFile(args[0]+".log"))
	}
}

func terminate(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "terminate NAME")
	code, err := nodeOf(ts, args[0]).end(syscall.SIGTERM, stopLimit)
	ts.Check(err)
	if code != exitOK {
		ts.Fatalf("exit code %d: %s", code, ts.ReadFile(args[0]+".log"))
	}
}

func sigkill(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "sigkill NAME")
	nodeOf(ts, args[0]).kill()
}
