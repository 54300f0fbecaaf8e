package sessionhttp_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

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
