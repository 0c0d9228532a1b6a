package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// Error is an error in OpenAI's shape.
type Error struct {
	Status  int
	Type    string // invalid_request_error, authentication_error, server_error, unavailable_error
	Code    string
	Param   string // the field that is wrong, if one is
	Message string
}

func (e *Error) Error() string { return e.Message }

type errorBody struct {
	Error errorJSON `json:"error"`
}

type errorJSON struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    string  `json:"code"`
}

func body(err error) (int, errorBody) {
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Status: http.StatusInternalServerError, Type: "server_error", Code: "internal", Message: err.Error()}
	}
	j := errorJSON{Message: e.Message, Type: e.Type, Code: e.Code}
	if e.Param != "" {
		j.Param = &e.Param
	}
	return e.Status, errorBody{j}
}

func writeError(w http.ResponseWriter, err error) {
	status, b := body(err)
	if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "5")
	}
	writeJSON(w, status, b)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}

// wrong is the mistake of a client in a field.
func wrong(param, format string, args ...any) error {
	return &Error{http.StatusBadRequest, "invalid_request_error", "invalid_value", param, fmt.Sprintf(format, args...)}
}

// Invalid is the error for what a client cannot have as it asked for it.
func Invalid(param string, err error) error { return wrong(param, "%v", err) }

// TooLong is the error for what has no room in the context.
func TooLong(err error) error {
	return &Error{http.StatusBadRequest, "invalid_request_error", "context_length_exceeded", "messages", err.Error()}
}

func loading() error {
	return &Error{http.StatusServiceUnavailable, "unavailable_error", "loading", "", "the model is being loaded: try again soon"}
}

func busy() error {
	return &Error{http.StatusTooManyRequests, "unavailable_error", "busy", "", fmt.Sprintf("%d requests wait already: try again later", maxWaiting)}
}

func notFound(r *http.Request) error {
	return &Error{http.StatusNotFound, "invalid_request_error", "not_found", "", fmt.Sprintf("there is no %s %s here", r.Method, r.URL.Path)}
}
