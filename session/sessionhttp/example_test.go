package sessionhttp_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/manydevice/manydevice/event"
	"github.com/manydevice/manydevice/session"
	"github.com/manydevice/manydevice/session/sessionhttp"
	"github.com/manydevice/manydevice/store/memstore"
)

// An administration server that lets in whoever knows a secret. A real host asks its own user directory.
func ExampleNew() {
	ctx := context.Background()
	reg, err := session.New(memstore.New(memstore.Config{}), session.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer reg.Close(ctx)
	admin, err := sessionhttp.New(reg, func(r *http.Request, _ event.Account, _ sessionhttp.Action) (sessionhttp.Caller, error) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			return sessionhttp.Caller{}, sessionhttp.ErrUnauthenticated
		}
		return sessionhttp.Caller{}, nil
	}, sessionhttp.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	mux := http.NewServeMux()
	mux.Handle("/admin/", http.StripPrefix("/admin", admin))

	if _, err := reg.Login(ctx, session.LoginRequest{Account: "ann", Device: "phone", Platform: "ios"}); err != nil {
		fmt.Println(err)
		return
	}
	for _, token := range []string{"", "Bearer secret"} {
		r := httptest.NewRequest(http.MethodDelete, "/admin/accounts/ann/devices/phone", nil)
		r.Header.Set("Authorization", token)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		fmt.Println(w.Code)
	}
	// Output:
	// 401
	// 204
}

// A tool that was made for EaseMob's REST interface asks the same paths.
func ExampleConfig() {
	ctx := context.Background()
	reg, err := session.New(memstore.New(memstore.Config{}), session.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer reg.Close(ctx)
	h, err := sessionhttp.New(reg, func(*http.Request, event.Account, sessionhttp.Action) (sessionhttp.Caller, error) {
		return sessionhttp.Caller{}, nil // this one is behind a gateway that lets in administrators only
	}, sessionhttp.Config{EaseMob: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := reg.Login(ctx, session.LoginRequest{Account: "ann", Device: "phone", Platform: "ios"}); err != nil {
		fmt.Println(err)
		return
	}
	for _, ask := range []string{"DELETE /users/ann/disconnect", "GET /users/ann/resources", "GET /users/ann/disconnect"} {
		method, path, _ := strings.Cut(ask, " ")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		fmt.Println(ask, w.Code)
	}
	fmt.Println(reg.List(ctx, "ann", ""))
	// Output:
	// DELETE /users/ann/disconnect 200
	// GET /users/ann/resources 200
	// GET /users/ann/disconnect 405
	// [] <nil>
}
