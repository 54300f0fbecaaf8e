// Package sessionhttp serves a [session.Registry] over HTTP, for support desks, administration tools and "your devices"
// pages. It has no authentication of its own and no default that is open: [New] takes an [Authorizer], which is asked
// before anything is read or done.
//
// # Routes
//
// Accounts, devices and logins in paths are percent-encoded, so an account may contain slashes. All times are RFC 3339 in
// UTC. The OpenAPI document that describes everything is served at /openapi.json, without asking the authorizer.
//
//	GET    /accounts/{account}/logins            logins, earliest first; limit, after
//	GET    /accounts/{account}/logins/{login}    one login
//	DELETE /accounts/{account}/logins/{login}    end it; note
//	POST   /accounts/{account}/kick              end a list, all, all others, or those of a platform
//	GET    /accounts/{account}/devices           devices that are remembered
//	DELETE /accounts/{account}/devices/{device}  forget a device and end its logins; note
//	GET    /accounts/{account}/presence          how reachable the account is
//	GET    /accounts/{account}/recent            last logins and ends, newest first
//	GET    /accounts/{account}/ban               why it may not log in
//	PUT    /accounts/{account}/ban               keep it from logging in
//	DELETE /accounts/{account}/ban               let it log in again
//	DELETE /accounts/{account}                   remove the account; refuse, note
//
// Every method but POST may be repeated without harm: what is gone already is answered with 404 and nothing else is
// touched. POST kick may be repeated as well: a login that is not there is reported as not ended.
//
// With [Config.EaseMob] there are also the routes under which EaseMob's REST interface lists a user's devices and takes
// them offline.
//
// # Errors
//
// Errors are problem documents (RFC 9457) with a stable code. Bodies of requests are JSON; unknown fields are refused.
package sessionhttp
