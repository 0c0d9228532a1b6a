package transport

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"
)

const (
	// alpn is what both sides of a connection must speak.
	alpn = "fedattn/1"
	// serverName is the same for every connection: what a dialer calls its peer is nobody's business, and
	// the ID alone decides.
	serverName = "fedattn"
)

// selfSigned returns the certificate that carries the identity's key. It lives in memory only and has
// nothing to say but the key: its validity spans all time because a device without a battery-backed clock
// may wake up in 1970, and the pinned key never expires.
func selfSigned(identity Identity) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: serverName},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280 4.1.2.5: no expiry
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(nil, template, template, identity.key().Public(), identity.key())
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("cannot make a certificate from the identity: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: identity.key()}, nil
}

// baseTLS is what both directions share: TLS 1.3, our certificate, no chain to any authority, no tickets
// and so neither resumption nor 0-RTT.
func baseTLS(certificate tls.Certificate, protocol string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		MaxVersion:             tls.VersionTLS13,
		NextProtos:             []string{protocol},
		ServerName:             serverName,
		Certificates:           []tls.Certificate{certificate},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		InsecureSkipVerify:     true, // no authority signs these keys; VerifyConnection below decides
	}
}

// listenTLS accepts any peer that proves to hold some identity other than self. Whether that identity is
// welcome is the endpoint's next question.
func listenTLS(certificate tls.Certificate, protocol string, self ID) *tls.Config {
	config := baseTLS(certificate, protocol)
	config.VerifyConnection = func(state tls.ConnectionState) error {
		id, err := verifyPeer(state, protocol, time.Now())
		if err != nil {
			return err
		}
		if id == self {
			return errSelf
		}
		return nil
	}
	return config
}

// dialTLS accepts the expected peer and nobody else.
func dialTLS(certificate tls.Certificate, protocol string, expected ID) *tls.Config {
	config := baseTLS(certificate, protocol)
	config.VerifyConnection = func(state tls.ConnectionState) error {
		id, err := verifyPeer(state, protocol, time.Now())
		if err != nil {
			return err
		}
		if id != expected {
			return &wrongIDError{got: id}
		}
		return nil
	}
	return config
}

// errSelf ends a handshake with somebody who holds this endpoint's own key: either we reached ourselves
// or the identity was copied to another device.
var errSelf = errors.New("the peer has this device's own identity")

// wrongIDError carries the identity that answered out of the handshake.
type wrongIDError struct{ got ID }

func (e *wrongIDError) Error() string { return "another device answered: " + string(e.got) }

// verifyPeer returns the ID of the other side of a handshake for a protocol. crypto/tls has already made sure that
// the other side holds the private key of the certificate it showed.
//
// It belongs into tls.Config.VerifyConnection, which runs for every handshake of either side; the similar
// VerifyPeerCertificate is skipped on resumption.
func verifyPeer(state tls.ConnectionState, protocol string, now time.Time) (ID, error) {
	switch {
	case state.Version != tls.VersionTLS13:
		return "", errors.New("not TLS 1.3")
	case state.NegotiatedProtocol != protocol:
		return "", fmt.Errorf("the peer does not speak %s", protocol)
	case state.DidResume:
		return "", errors.New("sessions are never resumed")
	case len(state.PeerCertificates) != 1:
		return "", fmt.Errorf("%d certificates where one is the rule", len(state.PeerCertificates))
	}
	certificate := state.PeerCertificates[0]
	key, ok := certificate.PublicKey.(ed25519.PublicKey)
	if !ok || len(key) != ed25519.PublicKeySize {
		return "", fmt.Errorf("the certificate holds a key of type %s, not Ed25519", certificate.PublicKeyAlgorithm)
	}
	if certificate.SignatureAlgorithm != x509.PureEd25519 {
		return "", fmt.Errorf("the certificate is signed with %s, not Ed25519", certificate.SignatureAlgorithm)
	}
	if err := certificate.CheckSignature(x509.PureEd25519, certificate.RawTBSCertificate, certificate.Signature); err != nil {
		return "", errors.New("the certificate is not signed by its own key")
	}
	if now.Before(certificate.NotBefore) || now.After(certificate.NotAfter) {
		return "", fmt.Errorf("the certificate is valid from %s to %s, not today",
			certificate.NotBefore.Format(time.DateOnly), certificate.NotAfter.Format(time.DateOnly))
	}
	return idOf(key), nil
}
