package api

import (
	"maps"
	"math"
	"net/http"
	"strconv"
	"time"

	"weir/weir"
)

// figureWire is a figure over time, as Prometheus answers a query of a range.
type figureWire struct {
	Status string     `json:"status"`
	Data   matrixWire `json:"data"`
}

type matrixWire struct {
	Type   string       `json:"resultType"`
	Result []seriesWire `json:"result"`
}

type seriesWire struct {
	Metric map[string]string `json:"metric"`
	Values []pointWire       `json:"values"`
}

// pointWire is a time, in seconds since 1970, and a value, in words.
type pointWire [2]any

func (a *api) loadBalancerFigure(w http.ResponseWriter, r *http.Request) error {
	id := weir.ID(r.URL.Query().Get("lb_id"))
	switch {
	case id == "":
		return invalid("lb_id is missing, want the ID of a load balancer")
	case !opaque.MatchString(string(id)):
		return errNotFound
	}
	start, end, err := window(r)
	if err != nil {
		return err
	}
	all, err := a.Control.LoadBalancerFigure(r.Context(), id, weir.Figure(r.PathValue("figure")), start, end)
	if err != nil {
		return err
	}
	return replyFigure(w, all, map[string]string{"lb_id": string(id), "region": a.Control.Region()})
}

func (a *api) dropletFigure(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	id := weir.ID(q.Get("host_id"))
	switch {
	case id == "":
		return invalid("host_id is missing, want the ID of a droplet")
	case !decimal.MatchString(string(id)):
		return errNotFound
	}
	start, end, err := window(r)
	if err != nil {
		return err
	}
	figure := weir.Figure(r.PathValue("figure"))
	want := map[string]string{}
	if figure == "bandwidth" {
		if want["interface"], err = oneOf(r, "interface", "public", "private"); err != nil {
			return err
		}
		if want["direction"], err = oneOf(r, "direction", "inbound", "outbound"); err != nil {
			return err
		}
	}
	m, err := a.Control.Machine(r.Context(), id)
	if err != nil {
		return err
	}
	if !isDroplet(m) {
		return errNotFound
	}
	all, err := a.Control.MachineFigure(r.Context(), id, figure, start, end)
	if err != nil {
		return err
	}
	var wanted []weir.Series
	for _, s := range all {
		if figure != "bandwidth" || maps.Equal(s.Labels, want) {
			wanted = append(wanted, s)
		}
	}
	return replyFigure(w, wanted, map[string]string{"host_id": string(id)})
}

// window returns the time that a figure is asked for.
func window(r *http.Request) (start, end time.Time, err error) {
	if start, err = moment(r, "start"); err != nil {
		return start, end, err
	}
	if end, err = moment(r, "end"); err != nil {
		return start, end, err
	}
	if end.Before(start) {
		return start, end, invalid("end is %d and start is %d, want an end that is not before the start", end.Unix(), start.Unix())
	}
	return start, end, nil
}

// moment returns a parameter of the query that is a time.
func moment(r *http.Request, name string) (time.Time, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return time.Time{}, invalid("%s is missing, want a time in seconds since 1970", name)
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > math.MaxUint32 {
		return time.Time{}, invalid("%s is %.40q, want a time in seconds since 1970", name, text)
	}
	return time.Unix(n, 0), nil
}

// oneOf returns a parameter of the query that is one of two words.
func oneOf(r *http.Request, name, one, other string) (string, error) {
	word := r.URL.Query().Get(name)
	if word != one && word != other {
		return "", invalid("%s is %.40q, want %s or %s", name, word, one, other)
	}
	return word, nil
}

// replyFigure answers with a figure, each series with these labels beside its own.
func replyFigure(w http.ResponseWriter, all []weir.Series, labels map[string]string) error {
	result := make([]seriesWire, len(all))
	for i, s := range all {
		result[i] = seriesWire{maps.Clone(labels), make([]pointWire, len(s.Points))}
		maps.Copy(result[i].Metric, s.Labels)
		for j, p := range s.Points {
			result[i].Values[j] = pointWire{p.At.Unix(), figureWords(p.Value)}
		}
	}
	return reply(w, http.StatusOK, figureWire{"success", matrixWire{"matrix", result}})
}

// figureWords writes a value with as many digits as are known of it.
func figureWords(v float64) string {
	if v == math.Trunc(v) {
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return strconv.FormatFloat(v, 'f', -1, 32)
}

// listAlertPolicies answers that there is none, which is so.
func (a *api) listAlertPolicies(w http.ResponseWriter, r *http.Request) error {
	return list(w, r, "policies", nil, func(p struct{}) struct{} { return p })
}

func (a *api) createAlertPolicy(http.ResponseWriter, *http.Request) error {
	return invalid("alert policies are not there: Weir sends no alerts, have a Prometheus read /metrics of the control plane and alert by rules of its own")
}

func (a *api) noAlertPolicy(http.ResponseWriter, *http.Request) error { return errNotFound }
