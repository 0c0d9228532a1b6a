package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// checkKey lets in who knows the key, if there is one.
func (s *Server) checkKey(r *http.Request) error {
	if s.cfg.Key == "" {
		return nil
	}
	given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	// digests have one length, and comparing them takes one time
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(s.cfg.Key))
	if !ok || subtle.ConstantTimeCompare(a[:], b[:]) != 1 {
		return &Error{http.StatusUnauthorized, "authentication_error", "invalid_api_key", "", "wrong or missing API key: send the one of this server as Authorization: Bearer KEY"}
	}
	return nil
}

// checkOrigin keeps other web sites out: their pages may send requests from the user's own browser. No CORS header is
// ever sent; a request that comes from another origin all the same is refused, and so is, where only this machine is
// listened to, one for another host's name, as after DNS rebinding.
func (s *Server) checkOrigin(r *http.Request) error {
	if origin := r.Header.Get("Origin"); origin != "" {
		if u, err := url.Parse(origin); err != nil || u.Host != r.Host {
			return &Error{http.StatusForbidden, "invalid_request_error", "origin", "", "requests of other web sites are not answered"}
		}
	}
	if !s.cfg.Loopback {
		return nil
	}
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = strings.Trim(r.Host, "[]")
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return &Error{http.StatusForbidden, "invalid_request_error", "host", "", "this server answers its own machine only: use localhost"}
	}
	return nil
}
