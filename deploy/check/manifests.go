package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// kinds are the objects that manifests may have, by version and kind.
var kinds = map[string]func() any{
	"v1/Namespace":      func() any { return new(corev1.Namespace) },
	"v1/Secret":         func() any { return new(corev1.Secret) },
	"v1/Service":        func() any { return new(corev1.Service) },
	"apps/v1/DaemonSet": func() any { return new(appsv1.DaemonSet) },
	monitoringv1.SchemeGroupVersion.String() + "/PodMonitor": func() any { return new(monitoringv1.PodMonitor) },
}

// objects are those of all manifests.
type objects struct{ all []any }

// read decodes each document of a file strictly.
func (o *objects) read(file string) (string, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	documents := utilyaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(content)))
	defer documents.Close()
	count := 0
	for {
		document := make([]byte, len(content))
		n, err := documents.Read(document)
		if errors.Is(err, io.EOF) {
			return fmt.Sprintf("%d objects", count), nil
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
		empty, known := kinds[kind]
		if !known {
			return "", fmt.Errorf("nothing here checks a %s", kind)
		}
		object := empty()
		if err := yaml.UnmarshalStrict(document, object); err != nil {
			return "", fmt.Errorf("%s: %w", kind, err)
		}
		o.all = append(o.all, object)
		count++
	}
}

// pods are those that a selector picks in a namespace.
func (o *objects) pods(namespace string, selector labels.Selector) (found []corev1.PodTemplateSpec) {
	for _, object := range o.all {
		if set, ok := object.(*appsv1.DaemonSet); ok && set.Namespace == namespace && selector.Matches(labels.Set(set.Spec.Template.Labels)) {
			found = append(found, set.Spec.Template)
		}
	}
	return found
}

// refer holds selectors against the pods that there are, and the ports that are looked for against those pods'.
func (o *objects) refer() error {
	for _, object := range o.all {
		switch x := object.(type) {
		case *corev1.Service:
			pods := o.pods(x.Namespace, labels.SelectorFromSet(x.Spec.Selector))
			for _, port := range x.Spec.Ports {
				if !offers(pods, func(p corev1.ContainerPort) bool { return p.ContainerPort == port.Port && p.Protocol == port.Protocol }) {
					return fmt.Errorf("service %s: no pod that it selects has port %d/%s", x.Name, port.Port, port.Protocol)
				}
			}
		case *appsv1.DaemonSet:
			selector, err := metav1.LabelSelectorAsSelector(x.Spec.Selector)
			if err != nil {
				return err
			}
			if !selector.Matches(labels.Set(x.Spec.Template.Labels)) {
				return fmt.Errorf("daemon set %s does not select its own pods", x.Name)
			}
		case *monitoringv1.PodMonitor:
			selector, err := metav1.LabelSelectorAsSelector(&x.Spec.Selector)
			if err != nil {
				return err
			}
			pods := o.pods(x.Namespace, selector)
			for _, endpoint := range x.Spec.PodMetricsEndpoints {
				if endpoint.Port == nil || !offers(pods, func(p corev1.ContainerPort) bool { return p.Name == *endpoint.Port && p.Protocol == corev1.ProtocolTCP }) {
					return fmt.Errorf("pod monitor %s: no pod that it selects has the TCP port that it names", x.Name)
				}
			}
		}
	}
	return nil
}

// offers says whether each of some pods, and there has to be one, has such a port.
func offers(pods []corev1.PodTemplateSpec, such func(corev1.ContainerPort) bool) bool {
	for _, pod := range pods {
		has := false
		for _, c := range pod.Spec.Containers {
			for _, port := range c.Ports {
				has = has || such(port)
			}
		}
		if !has {
			return false
		}
	}
	return len(pods) > 0
}
