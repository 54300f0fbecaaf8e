package sessionhttp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/session/sessionhttp"
	"github.com/manydevice/manydevice/store/memstore"
)

// registry returns a registry over a store in memory; a host has one already.
func registry() *session.Registry {
	reg, err := session.New(memstore.New(memstore.Config{}), session.Config{})
	if err != nil {
		panic(err)
	}
	return reg
}

// login logs in ann's phone.
func login(reg *session.Registry) *session.LoginResult {
	phone, err := reg.Login(context.Background(), session.LoginRequest{Account: "ann", Device: "phone", Platform: "ios"})
	if err != nil {
		panic(err)
	}
	return phone
}

// An administration server that takes a secret for the host, and has an audit trail. A real host asks its own user
// directory.
func ExampleNew() {
	ctx := context.Background()
	reg := registry()
	defer reg.Close(ctx)
	admin, err := sessionhttp.New(reg, func(r *http.Request, _ event.Account, _ sessionhttp.Action) (sessionhttp.Caller, error) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			return sessionhttp.Caller{}, sessionhttp.ErrUnauthenticated
		}
		return sessionhttp.Caller{Role: sessionhttp.RoleHost, Name: "kim"}, nil
	}, sessionhttp.Config{
		Audit: func(_ context.Context, a sessionhttp.Audit) {
			fmt.Printf("%q: %s %s of %s: %s\n", a.Caller.Name, a.Action, a.Target, a.Account, a.Outcome)
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	mux := http.NewServeMux()
	mux.Handle("/admin/", http.StripPrefix("/admin", admin))

	login(reg)
	for _, token := range []string{"", "Bearer secret"} {
		r := httptest.NewRequest(http.MethodDelete, "/admin/accounts/ann/devices/phone", nil)
		r.Header.Set("Authorization", token)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		fmt.Println(w.Code)
	}
	// Output:
	// "": remove_device  of ann: unauthenticated
	// 401
	// "kim": remove_device phone of ann: done
	// 204
}

// A tool that was made for EaseMob's REST interface asks the same paths.
func ExampleEaseMob() {
	ctx := context.Background()
	reg := registry()
	defer reg.Close(ctx)
	h, err := sessionhttp.New(reg, func(*http.Request, event.Account, sessionhttp.Action) (sessionhttp.Caller, error) {
		return sessionhttp.Caller{Role: sessionhttp.RoleHost}, nil // behind a gateway that lets in administrators only
	}, sessionhttp.Config{
		Prefix:  "/acme/chat",
		EaseMob: &sessionhttp.EaseMob{Organization: "acme", ApplicationName: "chat"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	login(reg)
	for _, ask := range []string{"POST /users/ann/disconnect", "GET /users/ann/resources", "GET /users/ann/disconnect"} {
		method, path, _ := strings.Cut(ask, " ")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, "/acme/chat"+path, nil))
		var answer struct{ Data any }
		fmt.Println(ask, w.Code, json.Unmarshal(w.Body.Bytes(), &answer), answer.Data)
	}
	fmt.Println(reg.List(ctx, "ann", ""))
	// Output:
	// POST /users/ann/disconnect 200 <nil> map[result:true]
	// GET /users/ann/resources 200 <nil> []
	// GET /users/ann/disconnect 405 <nil> <nil>
	// [] <nil>
}

// A "your devices" page. The app on the device sends what it logged in with: its login ID and its resume token.
func ExampleAuthorizer_yourDevices() {
	ctx := context.Background()
	reg := registry()
	defer reg.Close(ctx)
	page, err := sessionhttp.New(reg, func(r *http.Request, account event.Account, _ sessionhttp.Action) (sessionhttp.Caller, error) {
		login, token, _ := r.BasicAuth()
		s, err := reg.Authenticate(r.Context(), account, event.LoginID(login), event.ResumeTokenOf(token))
		_, invalid := errors.AsType[*event.InvalidError](err)
		if invalid || errors.Is(err, session.ErrUnknownLogin) || errors.Is(err, session.ErrEnded) {
			return sessionhttp.Caller{}, sessionhttp.ErrUnauthenticated
		}
		return sessionhttp.Caller{Role: sessionhttp.RoleDevice, Self: s.Login}, err
	}, sessionhttp.Config{Challenge: `Basic realm="your devices"`})
	if err != nil {
		fmt.Println(err)
		return
	}
	phone := login(reg)
	for _, ask := range []string{"GET /accounts/ann/logins", "POST /accounts/ann/unban", "GET /accounts/bob/logins"} {
		method, path, _ := strings.Cut(ask, " ")
		r := httptest.NewRequest(method, path, nil)
		r.SetBasicAuth(string(phone.Session.Login), phone.Token.Reveal())
		w := httptest.NewRecorder()
		page.ServeHTTP(w, r)
		fmt.Println(ask, w.Code)
	}
	// Output:
	// GET /accounts/ann/logins 200
	// POST /accounts/ann/unban 403
	// GET /accounts/bob/logins 401
}
