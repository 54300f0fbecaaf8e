// Package sessionhttp serves a [session.Registry] over HTTP, for support desks, administration tools and "your devices"
// pages. It has no authentication of its own and no default that is open: [New] takes an [Authorizer], which is asked
// before anything is read or done, and a [Caller] without a role may do nothing.
//
// # Routes
//
// Accounts, devices and logins in paths are percent-encoded, each as one segment, so an account may contain slashes. All
// times are RFC 3339 in UTC. The OpenAPI document that describes everything is served at /openapi.json, without asking
// the authorizer.
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
//	POST   /accounts/{account}/unban             let it log in again
//	POST   /accounts/{account}/delete            remove the account and all it has
//
// With [Config.EaseMob] there are also the routes under which EaseMob's REST interface lists a user's devices and takes
// them offline.
//
// # Paths
//
// A path with an empty segment or one of dots, encoded or not, is answered with 400 and never with a redirect. The handler
// looks at the path as it was sent, so it may be mounted below another path with http.StripPrefix, or without it and with
// [Config.Prefix], and behind a router that does not clean paths. Some routers clean them before the handler sees them, and
// http.ServeMux sends clients elsewhere with a redirect. Therefore no path of a change is what becomes of another path when
// a segment is left out or taken for a step up. Identifiers with a part of dots are refused everywhere (event.CheckID).
//
// # Requests that are not understood
//
// A parameter of the query that a route does not take, one that is there twice, and a query that cannot be parsed are
// refused with 400. So are members of a body that are unknown, in another case, null, or there twice; anything behind the
// body's object; and a body where none is taken. Nothing is done then.
//
// # Repeated calls
//
// Every call may be repeated without harm, since a login ID is never used twice: DELETE of what is gone already is
// answered with 404 and touches nothing else. POST kick reports a login that is not there as not ended. PUT ban replaces a
// ban; POST unban and POST delete find the account as they would leave it. A device that was removed and has logged in
// again is another device of the same ID, and a repeated DELETE removes it.
//
// # Who may do what
//
// [RoleHost] may do all that the authorizer allows. [RoleDevice] is a login of the account that has not ended, which is
// looked up for each request when all of it was read; otherwise the answer is 403. It may list, read the log, end logins and
// remove devices within what the policy protects (policy.Policy.MayEnd), and neither ban nor delete the account.
// [Config.Audit] is told of every request about an account, done or refused.
//
// # Errors
//
// Errors are problem documents (RFC 9457) with a stable code; those of EaseMob's routes have EaseMob's form, with the same
// code as the exception.
package sessionhttp
