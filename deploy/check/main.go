// Command check reads the deployment files as the programs that will use them do: compose.yaml by Docker Compose's own
// loader with its schema, manifests by the types of Kubernetes' own API. A key that they do not know is an error.
//
//	go run . ../compose.yaml ../k3s/*.yaml
//
// It is a module of its own, so that what people install depends on none of this.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/compose-spec/compose-go/v2/cli"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

func main() {
	failed := false
	for _, file := range os.Args[1:] {
		read := manifests
		if filepath.Base(file) == "compose.yaml" {
			read = compose
		}
		what, err := read(file)
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", file, err)
			failed = true
			continue
		}
		fmt.Printf("%s: %s\n", file, what)
	}
	if failed || len(os.Args) < 2 {
		os.Exit(1)
	}
}

// compose loads every profile of a compose file.
func compose(file string) (string, error) {
	options, err := cli.NewProjectOptions([]string{file}, cli.WithProfiles([]string{"*"}), cli.WithoutEnvironmentResolution)
	if err != nil {
		return "", err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d services", len(project.Services)), nil
}

// kinds are the objects that manifests may have, by version and kind.
var kinds = map[string]func() any{
	"v1/Namespace":      func() any { return new(corev1.Namespace) },
	"v1/Secret":         func() any { return new(corev1.Secret) },
	"v1/Service":        func() any { return new(corev1.Service) },
	"apps/v1/DaemonSet": func() any { return new(appsv1.DaemonSet) },
}

// manifests decodes each document of a file strictly.
func manifests(file string) (string, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	documents := utilyaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(content)))
	defer documents.Close()
	objects := 0
	for {
		document := make([]byte, len(content))
		n, err := documents.Read(document)
		if errors.Is(err, io.EOF) {
			return fmt.Sprintf("%d objects", objects), nil
		}
		if err != nil {
			return "", err
		}
		document = document[:n]
		var meta metav1.TypeMeta
		if err := yaml.Unmarshal(document, &meta); err != nil {
			return "", err
		}
		kind := meta.APIVersion + "/" + meta.Kind
		object, known := kinds[kind]
		if !known {
			return "", fmt.Errorf("nothing here checks a %s", kind)
		}
		if err := yaml.UnmarshalStrict(document, object()); err != nil {
			return "", fmt.Errorf("%s: %w", kind, err)
		}
		objects++
	}
}
