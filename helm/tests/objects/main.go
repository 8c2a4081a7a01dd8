// SPDX-License-Identifier: Apache-2.0

// Objects reads a YAML stream of Kubernetes objects with the types of the projects that define them, validates them as the
// API server does when they are created, and judges their pods by the Pod Security Standards with its library.
//
// A field that a type does not have is an error, and so is an object that the API server would refuse. For each pod or pod template, level and version it prints one line, with
// tabs between: kind, name, level, version, "allowed" or the reasons of the refusal.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

type pod struct {
	name     string
	metadata metav1.ObjectMeta
	spec     corev1.PodSpec
}

func main() {
	if err := run(os.Stdin, os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "objects:", err)
		os.Exit(1)
	}
}

func run(input io.Reader, output io.Writer, versions []string) error {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return err
	}
	reader := utilyaml.NewYAMLReader(bufio.NewReader(input))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(document)) == "" {
			continue
		}
		kind, found, err := podOf(document)
		if err == nil {
			err = create(kind, document)
		}
		if err != nil {
			return err
		}
		if found == nil {
			continue
		}
		for _, level := range []api.Level{api.LevelBaseline, api.LevelRestricted} {
			for _, text := range versions {
				version, err := api.ParseVersion(text)
				if err != nil {
					return err
				}
				result := policy.AggregateCheckResults(evaluator.EvaluatePod(
					api.LevelVersion{Level: level, Version: version}, &found.metadata, &found.spec))
				verdict := "allowed"
				if !result.Allowed {
					verdict = strings.ReplaceAll(result.ForbiddenDetail(), "\n", " ")
				}
				fmt.Fprintf(output, "%s\t%s\t%s\t%s\t%s\n", kind, found.name, level, text, verdict)
			}
		}
	}
}

// The pod of an object, or nil if it has none.
func podOf(document []byte) (string, *pod, error) {
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(document, &kind); err != nil {
		return "", nil, err
	}
	strictly := func(object any) error {
		if err := yaml.UnmarshalStrict(document, object); err != nil {
			return fmt.Errorf("%s: %w", kind.Kind, err)
		}
		return nil
	}
	switch kind.APIVersion + " " + kind.Kind {
	case "v1 Pod":
		var object corev1.Pod
		err := strictly(&object)
		return kind.Kind, &pod{object.Name, object.ObjectMeta, object.Spec}, err
	case "apps/v1 Deployment":
		var object appsv1.Deployment
		err := strictly(&object)
		return kind.Kind, &pod{object.Name, object.Spec.Template.ObjectMeta, object.Spec.Template.Spec}, err
	case "apps/v1 StatefulSet":
		var object appsv1.StatefulSet
		err := strictly(&object)
		return kind.Kind, &pod{object.Name, object.Spec.Template.ObjectMeta, object.Spec.Template.Spec}, err
	case "apps/v1 DaemonSet":
		var object appsv1.DaemonSet
		err := strictly(&object)
		return kind.Kind, &pod{object.Name, object.Spec.Template.ObjectMeta, object.Spec.Template.Spec}, err
	case "v1 ConfigMap":
		return kind.Kind, nil, strictly(&corev1.ConfigMap{})
	case "v1 Service":
		return kind.Kind, nil, strictly(&corev1.Service{})
	case "v1 ServiceAccount":
		return kind.Kind, nil, strictly(&corev1.ServiceAccount{})
	case "networking.k8s.io/v1 NetworkPolicy":
		return kind.Kind, nil, strictly(&networkingv1.NetworkPolicy{})
	case "policy/v1 PodDisruptionBudget":
		return kind.Kind, nil, strictly(&policyv1.PodDisruptionBudget{})
	case "rbac.authorization.k8s.io/v1 Role":
		return kind.Kind, nil, strictly(&rbacv1.Role{})
	case "rbac.authorization.k8s.io/v1 RoleBinding":
		return kind.Kind, nil, strictly(&rbacv1.RoleBinding{})
	case "autoscaling/v2 HorizontalPodAutoscaler":
		return kind.Kind, nil, strictly(&autoscalingv2.HorizontalPodAutoscaler{})
	case "monitoring.coreos.com/v1 PodMonitor":
		return kind.Kind, nil, strictly(&monitoringv1.PodMonitor{})
	case "monitoring.coreos.com/v1 PrometheusRule":
		return kind.Kind, nil, strictly(&monitoringv1.PrometheusRule{})
	default:
		return "", nil, fmt.Errorf("unexpected object %s %s", kind.APIVersion, kind.Kind)
	}
}
