package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Each planted mistake is found, and the files as they are have none.
func TestMistakesAreFound(t *testing.T) {
	type mistake struct{ was, is, found string }
	for file, mistakes := range map[string][]mistake{
		"../../Dockerfile": {
			{"USER 10001:10001", "USER root", "USER"},
			{"STOPSIGNAL SIGTERM", "STOPSIGNAL SIGKILL", "STOPSIGNAL"},
			{`CMD ["fedattn", "health"]`, "CMD fedattn health", "HEALTHCHECK"},
			{`ENTRYPOINT ["fedattn"]`, "ENTRYPOINT fedattn", "ENTRYPOINT"},
			{`VOLUME ["/models", "/config"]`, `VOLUME ["/models"]`, "VOLUME"},
			{"image.licenses", "image.licences", "licenses"},
			{"COPY third_party/fetch-package.sh", "COPY third_party/fetch.sh", "fetch.sh"},
			{"FROM ${BASE_IMAGE}", "FROM debian:trixie-slim", "debian"},
			{"ARG BASE_IMAGE=debian:trixie-slim\n", "", "BASE_IMAGE"},
			{"STOPSIGNAL SIGTERM", "STOPSIGNALS SIGTERM", "unknown instruction"},
			{"WORKDIR /models", "RUN true", "last stage"},
		},
		"../../Dockerfile.jetson": {{"USER 10001:10001", "USER 0:0", "USER"}},
		"../compose.yaml":         {{"stop_grace_period", "stop_grace", "stop_grace"}},
		"../k3s/fedattn.yaml": {
			{"hostNetwork: true", "hostNetworks: true", "hostNetworks"},
			{"kind: DaemonSet", "kind: Deployment", "Deployment"},
			{"port: 7843", "port: 7844", "7844"},
			{"    matchLabels:\n      app.kubernetes.io/name: fedattn", "    matchLabels:\n      app.kubernetes.io/name: other", "own pods"},
			{"name: metrics", "name: numbers", "pod monitor"},
		},
		"../k3s/podmonitor.yaml": {
			{"port: metrics", "port: quic", "pod monitor"},
			{"port: metrics", "ports: metrics", "ports"},
			{"    matchLabels:\n      app.kubernetes.io/name: fedattn", "    matchLabels:\n      app.kubernetes.io/name: other", "pod monitor"},
		},
	} {
		if err := checked(file, file); err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range mistakes {
			if !strings.Contains(string(content), m.was) {
				t.Errorf("%s has no %q any more: plant another mistake", file, m.was)
				continue
			}
			// beside the file: what it refers to is found from there
			planted := filepath.Join(filepath.Dir(file), filepath.Base(file)+".planted")
			if file == "../compose.yaml" {
				planted = filepath.Join(t.TempDir(), "compose.yaml")
			}
			if err := os.WriteFile(planted, []byte(strings.Replace(string(content), m.was, m.is, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Remove(planted) })
			if err := checked(file, planted); err == nil || !strings.Contains(err.Error(), m.found) {
				t.Errorf("%s with %q: %v", file, m.is, err)
			}
			os.Remove(planted)
		}
	}
}

// checked is what main says of a file's copy, manifests together with the others.
func checked(file, from string) error {
	switch filepath.Base(file) {
	case "Dockerfile", "Dockerfile.jetson":
		_, err := dockerfile(from)
		return err
	case "compose.yaml":
		_, err := compose(from)
		return err
	}
	var cluster objects
	for _, manifest := range []string{"../k3s/fedattn.yaml", "../k3s/podmonitor.yaml"} {
		if manifest == file {
			manifest = from
		}
		if _, err := cluster.read(manifest); err != nil {
			return err
		}
	}
	return cluster.refer()
}
