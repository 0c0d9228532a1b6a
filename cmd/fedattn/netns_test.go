//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// namespaces is a script that has made networks of its own, and runs commands in them.
type namespaces struct {
	workplace
	in  io.WriteCloser
	out *bufio.Reader
}

// newNamespaces skips the test where a machine does not let it make networks.
func newNamespaces(t *testing.T) *namespaces {
	t.Helper()
	if os.Getenv("FEDATTN_NETNS") == "" {
		t.Skip("make test-netns runs it")
	}
	n := &namespaces{workplace: newWorkplace(t)}
	script, err := filepath.Abs(filepath.Join("testdata", "netns", "nat.sh"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tool := range []string{"unshare", "nsenter", "ip", "iptables", "sysctl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed: networks of one's own need it", tool)
		}
	}
	// a namespace of processes, too: with its first one all of them end
	c := exec.Command("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child", "bash", script)
	c.Dir, c.Env, c.Stderr = n.dir, append(isolated(n.dir), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin"), os.Stderr
	if n.in, err = c.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	n.out = bufio.NewReader(out)
	if err := c.Start(); err != nil {
		t.Skipf("no namespaces here: %v", err)
	}
	t.Cleanup(func() {
		n.in.Close()
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	line, err := n.out.ReadString('\n')
	if err != nil || line != "up\n" {
		t.Skipf("this machine does not let an ordinary user make networks (user namespaces, bridge, NAT): %q %v", line, err)
	}
	return n
}

// run is a line of bash in there, which has to succeed.
func (n *namespaces) run(format string, args ...any) {
	n.t.Helper()
	line := fmt.Sprintf(format, args...)
	if _, err := fmt.Fprintln(n.in, line); err != nil {
		n.t.Fatal(err)
	}
	answer, err := n.out.ReadString('\n')
	if err != nil || answer != "done 0\n" {
		n.t.Fatalf("%s: %q, %v", line, answer, err)
	}
}

func (n *namespaces) read(name string) string {
	n.t.Helper()
	b, err := os.ReadFile(n.path(name))
	if err != nil {
		n.t.Fatal(err)
	}
	return string(b)
}

// node starts a contributor behind its NAT, and returns its identity.
func (n *namespaces) startNode(name, model, text string) (id string) {
	n.t.Helper()
	n.write(name+".txt", []byte(text))
	n.run("on %s fedattn node --model %s --threads 1 --doc %s.txt --name %s --config %s --allow-any --no-mdns --listen 0.0.0.0:7700 "+
		">%s.addr 2>%s.log &", name, model, name, name, name, name, name)
	waitFor(n.t, func() bool { b, _ := os.ReadFile(n.path(name + ".addr")); return strings.Contains(string(b), "\n") })
	id, _, _ = strings.Cut(n.read(name+".addr"), "@")
	return id
}

// ask asks both contributors at the addresses of their NATs.
func (n *namespaces) ask(ids [2]string, flags string) (a answer, stderr string) {
	n.t.Helper()
	n.run("on publisher timeout 60 fedattn ask --no-mdns --name laptop --config laptop --threads 1 --json %s --peer %s@198.51.100.2:7700 "+
		"--peer %s@198.51.100.3:7700 'Where is the key?' >answer.json 2>answer.log || { cat answer.log >&2; false; }", flags, ids[0], ids[1])
	if err := json.Unmarshal([]byte(n.read("answer.json")), &a); err != nil {
		n.t.Fatal(err)
	}
	return a, n.read("answer.log")
}

const sampledHot = "--predict 48 --temp 3 --seed 7 --top-k 0 --top-p 1 --min-p 0 --wire f16"

// TestNetworkNamespaces is two contributors behind NATs of their own: each is reached by the publisher, through a forwarded
// port, and by nobody else.
func TestNetworkNamespaces(t *testing.T) {
	n := newNamespaces(t)
	tiny := n.write("tiny.gguf", tinyTransformer(tinyTemplate, 1, tinyContext))
	ids := [2]string{n.startNode("a", tiny, "The pump was repaired on 3 June."), n.startNode("b", tiny, "The key hangs behind the door.")}
	flags := "--model " + tiny + " " + sampledHot

	began := time.Now()
	relayed, log := n.ask(ids, flags+" --schedule lockstep")
	t.Logf("lockstep across two NATs took %v: %s", time.Since(began).Round(time.Millisecond), log)
	for _, p := range relayed.Federation.Peers {
		if p.Missing != nil {
			t.Errorf("%s is missing: %s", p.Name, p.Missing.Text)
		}
	}
	via := relayed.Federation.Peers[0].Via
	if len(via) != 1 || via[0].To != "b" || via[0].Bytes == 0 || !strings.Contains(log, "a and b cannot reach each other") || !strings.Contains(log, "via laptop") {
		t.Errorf("rows of a reach b via %v; stderr is %q", via, log)
	}
	if nodes := n.read("a.log") + n.read("b.log"); strings.Count(nodes, "via_publisher") != 2 {
		t.Errorf("the nodes do not say it: %s", nodes)
	}

	// the same with a port that is forwarded for everybody: nothing is relayed, and the answer is the same
	for i, nat := range []string{"nat-a", "nat-b"} {
		n.run("on %s iptables -t nat -A PREROUTING -i wan -p udp --dport 7700 -j DNAT --to 10.0.%d.2:7700", nat, 1+i)
	}
	direct, log := n.ask(ids, flags+" --schedule lockstep")
	if via := direct.Federation.Peers[0].Via; len(via) != 0 || direct.Federation.Peers[1].Missing != nil {
		t.Errorf("with a way between them: via %v, %q", via, log)
	}
	if direct.Answer == "" || direct.Answer != relayed.Answer {
		t.Errorf("relayed rows say %q, direct ones %q", relayed.Answer, direct.Answer)
	}
	gather, _ := n.ask(ids, flags+" --schedule gather")
	if gather.Answer == direct.Answer {
		t.Error("the answer does not depend on rows between contributors: nothing was tested")
	}
}

// TestTheAskersAddressChanges in the middle of an answer whose every token needs the contributors' rows, which stay home.
func TestTheAskersAddressChanges(t *testing.T) {
	n := newNamespaces(t)
	for _, nat := range []string{"a", "b"} {
		lan := map[string]int{"a": 1, "b": 2}[nat]
		n.run("on nat-%s iptables -t nat -A PREROUTING -i wan -s 198.51.100.9 -p udp --dport 7700 -j DNAT --to 10.0.%d.2:7700", nat, lan)
	}
	tiny := n.write("tiny.gguf", tinyTransformer(tinyTemplate, 1, hugeContext))
	ids := [2]string{n.startNode("a", tiny, "The pump was repaired on 3 June."), n.startNode("b", tiny, "The key hangs behind the door.")}
	flags := "--model " + tiny + fmt.Sprintf(" --schedule home --temp 0 --context %d --predict 700", hugeContext)
	want, _ := n.ask(ids, flags)
	t.Logf("%d tokens in %.0f ms", want.Federation.Decoded, want.Federation.DecodeMS)
	n.run("{ sleep 0.7; on publisher ip addr del 198.51.100.1/24 dev wan; sleep 0.5; on publisher ip addr add 198.51.100.9/24 dev wan; date +%%s.%%N >moved; } &")
	began := time.Now()
	got, log := n.ask(ids, flags)
	moved, err := os.Stat(n.path("moved"))
	if err != nil || time.Since(moved.ModTime()) < 200*time.Millisecond {
		t.Fatalf("INVALID: the address did not change in the middle of the answer, which took %v", time.Since(began))
	}
	for _, p := range got.Federation.Peers {
		if p.Missing != nil {
			t.Errorf("%s is missing: %s", p.Name, p.Missing.Text)
		}
	}
	if got.Answer != want.Answer {
		t.Errorf("the answer is another one: %s", log)
	}
	t.Logf("an answer of %v, with another address from %v on", time.Since(began).Round(time.Millisecond), moved.ModTime().Sub(began).Round(time.Millisecond))
}
