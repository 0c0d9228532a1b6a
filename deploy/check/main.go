// Command check reads the deployment files as the programs that will use them do: Dockerfiles by BuildKit's own parser and
// linter, compose.yaml by Docker Compose's own loader with its schema, manifests by the types of Kubernetes' and the
// Prometheus Operator's own APIs. What they do not know is an error, and so is what refers to nothing.
//
//	go run . ../../Dockerfile ../compose.yaml ../k3s/*.yaml
//
// It is a module of its own, so that what people install depends on none of this.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	failed := false
	told := func(what string, err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			failed = true
		} else {
			fmt.Println(what)
		}
	}
	var cluster objects
	for _, file := range os.Args[1:] {
		var what string
		var err error
		switch name := filepath.Base(file); {
		case strings.HasPrefix(name, "Dockerfile"):
			what, err = dockerfile(file)
		case name == "compose.yaml":
			what, err = compose(file)
		default:
			what, err = cluster.read(file)
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", file, err)
		}
		told(file+": "+what, err)
	}
	if !failed && len(cluster.all) > 0 {
		told("selectors and ports of the manifests refer to something", cluster.refer())
	}
	if failed || len(os.Args) < 2 {
		os.Exit(1)
	}
}
