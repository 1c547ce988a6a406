package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"weir/weir"
)

// Words that clients compare with, letter by letter.
const (
	textNotFound     = "The resource you were accessing could not be found."
	textNoRoute      = textNotFound + " Weir has nothing at %.60q, but load balancers, droplets and what belongs to them."
	textUnauthorized = "Unable to authenticate you"
	textForbidden    = "You are not authorized to perform this operation"
	textTooMany      = "API Rate limit exceeded."
)

// errorBody is what every answer that is no success carries.
type errorBody struct {
	ID        string `json:"id"` // the status, in words
	Message   string `json:"message"`
	RequestID string `json:"request_id"`

	Weir *errorWeir `json:"weir,omitempty"`
}

// errorWeir is what DigitalOcean has no word for.
type errorWeir struct {
	Scope weir.Scope `json:"scope"` // that the token lacks
}

// statusError is an error whose status the API itself decides, where no kind says it.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string { return e.text }

// lackError is that of a caller whose token lacks a scope. It is answered by forbid.
type lackError struct{ scope weir.Scope }

func (e *lackError) Error() string { return "the token lacks the scope " + string(e.scope) }
func (e *lackError) Unwrap() error { return &statusError{http.StatusForbidden, textForbidden} }

// errNotFound is the answer for whatever is not there.
var errNotFound = &statusError{http.StatusNotFound, textNotFound}

// invalid returns a weir.Invalid: the answer is 422 with that sentence.
func invalid(format string, args ...any) error {
	return weir.Errorf(weir.Invalid, format, args...)
}

// statusOf returns how err is answered: status and sentence. It is the one place
// where kinds become statuses. What has no kind is a fault of ours, and its text is for
// the log alone.
func statusOf(err error) (status int, text string) {
	var own *statusError
	switch {
	case errors.As(err, &own):
		return own.status, own.text
	case errors.Is(err, weir.NotFound):
		return http.StatusNotFound, textNotFound
	case errors.Is(err, weir.Invalid), errors.Is(err, weir.Exhausted):
		return http.StatusUnprocessableEntity, err.Error()
	case errors.Is(err, weir.Conflict):
		return http.StatusConflict, err.Error()
	case errors.Is(err, weir.Denied):
		return http.StatusForbidden, err.Error()
	case errors.Is(err, weir.Unavailable):
		return http.StatusServiceUnavailable, err.Error()
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout, "it was not done in time, and may be done later: " + err.Error()
	case errors.Is(err, context.Canceled):
		return http.StatusServiceUnavailable, "the request ended before its answer"
	}
	return http.StatusInternalServerError, "Weir could not do this, and its log has the reason beside the request_id of this answer"
}

// slugs are the statuses in words, as clients know them.
var slugs = map[int]string{
	http.StatusBadRequest:            "bad_request",
	http.StatusUnauthorized:          "unauthorized",
	http.StatusForbidden:             "forbidden",
	http.StatusNotFound:              "not_found",
	http.StatusMethodNotAllowed:      "method_not_allowed",
	http.StatusConflict:              "conflict",
	http.StatusPreconditionFailed:    "precondition_failed",
	http.StatusRequestEntityTooLarge: "request_entity_too_large",
	http.StatusUnprocessableEntity:   "unprocessable_entity",
	http.StatusTooManyRequests:       "too_many_requests",
	http.StatusInternalServerError:   "server_error",
	http.StatusServiceUnavailable:    "service_unavailable",
	http.StatusGatewayTimeout:        "gateway_timeout",
}

// reply answers with v as JSON, or with nothing for a nil v.
func reply(w http.ResponseWriter, status int, v any) error {
	if v == nil {
		w.WriteHeader(status)
		return nil
	}
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	send(w, status, body)
	return nil
}

// send answers with what is JSON already.
func send(w http.ResponseWriter, status int, body []byte) {
	body = append(body, '\n')
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body) // fails if the client has left: there is nobody to tell
}
