//! Toolgate: an edge proxy for the Model Context Protocol, built on Pingora. This page is the map.
//!
//! Agents talk to one address. Behind it the gateway proves who calls, reads the whole message
//! strictly, sends it to the right replica of the right MCP server, keeps the session on its
//! replica, and writes down what happened, for close to the price of a plain proxy. README.md says
//! how to use it; this page says where everything is.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | **gateway** | this process |
//! | **server** | an MCP server; its **endpoints** are its addresses, together they are its **pool** |
//! | **client** | the peer of a connection; **caller** is who it proved to be |
//! | **session** | the MCP session; Pingora's `Session`, one HTTP exchange, is named only in [`proxy`] |
//! | **legacy** | revisions up to 2025-11-25: `initialize`, sessions, GET streams |
//! | **modern** | revision 2026-07-28: every request stands alone, `Mcp-Method` and `Mcp-Name` route it |
//! | **route** | a public path with its rules, and the server that answers it |
//! | **call** | one client message whose headers and body were found to agree |
//! | **plan** | what will be done for a request |
//! | **refusal** | the gateway's "no"; its **reason** is one of a closed list |
//! | **violation** | a rule of MCP that a client broke |
//! | **settings** | the checked configuration; a **problem** is a fault in it |
//! | **drain** | to take no more and finish what is open; a **successor** is the process that takes over |
//! | **snapshot** | settings made ready to serve, pinned by every request that uses them |
//!
//! # A request walks
//!
//! Each step has a file of its name in `src/proxy/`; steps that are phases of Pingora's proxy have
//! the phase's name.
//!
//! ```text
//! edge                    the connection: its limits, PROXY protocol, TLS, HTTP/1 or HTTP/2; reads the raw
//!                         head of an HTTP/1 request under one deadline and refuses   400 408 431 503
//! new_ctx (context)       the snapshot is pinned: one request sees one configuration
//! early_request_filter    time limits, and the client's address behind trusted proxies
//! request_filter          decide, cheap checks before dear ones:
//!                           admit_address        how often this address may ask                  429
//!                           reserve_record       a place in the record, for refusals too         503
//!                           strict::check        a head that two readers could read differently  400
//!                           check_certificate    one that was accepted and is not any more        421
//!                           hosts                Host and Origin are on the lists            421 403
//!                           find_metadata        what a route tells who has no token (RFC 9728)
//!                           find_route           the path, byte for byte                         404
//!                           authenticate         who is calling                              401 503
//!                           admit_early          limits that need nothing of the body            429
//!                           check_media          Content-Type and Accept                     415 406
//!                           body::read           the whole body, up to the route's limit     413 408
//!                           peek, Call::read     one strict message, headers agree           400 404
//!                           find                 of several servers the one whose it is, or the
//!                           | errand             gateway itself for all of them     400 404 503
//!                           open, locate         the session, and where it lives now         404 400
//!                           | anywhere           or where its hash key or the load leads
//!                           authorize            the policy, by what the catalogue knows; hidden names
//!                                                are answered as unknown ones                200 403
//!                           remember_use         combinations: checked and marked in one step    403
//!                           admit                limits by tool, server, session; calls at once  429
//!                           -> Plan::Forward | Plan::Errand, or one of the small ones
//!   admission               what it was let in with: permits, marks, its place in the record
//! proxy_upstream_filter   carries the plan out, by (a stream over HTTP/1 first leaves Pingora's request,
//!                         `parked`, and is driven by the loop of its connection in `edge`)
//!   pump                    connects, sends, waits for the head of the answer        502 503 504
//!     upstream_peer           the endpoint; another one while nothing was sent; its breaker
//!     moving                  a session whose endpoint is lost is opened again on another one
//!       own_request             requests of the gateway's own: to open a session, or to end it
//!     credential              the server's own, or nothing is sent                   503 403
//!     endpoint_outcome        what an exchange says of its endpoint, which may be ejected
//!     exchange, http1, idle   the connection to it, over either version of HTTP, new or kept
//!     upstream_request_filter the client's head, less its credentials, with the server's session id
//!   errands                 what the gateway answers itself for several servers: lists, greetings
//!     legs                    a session is opened at all of them at once, in one id
//!     merging                 one stream made of those of several servers
//!   deliver                 passes the answer on, part by part
//!     renaming                what one of several servers says, in the names that clients know
//!     stream                  a stream follows its session, tells of changes, ends cleanly
//!     response_filter         the head as the client sees it, with the session id sealed
//!     listing                 lists less what the caller may not see, in JSON and in streams
//!     response_body_filter    what the answer says is read from its parts as they pass
//! merging                 of several servers: one stream made of all of theirs, a GET's or a listen request's
//!   sources                 which servers, and what each is asked for; a listen request is split
//!   source, opening         the stream of one: its leg moves, it is opened again, its events are renamed
//!   streaming               the client's side: events of all in turn, one acknowledgement, a clean end
//! logging                 on every exit: permits and marks are given back, metrics, and one line
//!   trace, spans            what a collector of OpenTelemetry gets of it, if its trace is kept
//!   recording               the record of the request, in the place that was kept for it
//! ```
//!
//! `reaping` runs beside: it ends sessions at their servers that nobody will use again.
//!
//! GET (the stream of a legacy session) and DELETE (its end) have no body and skip its steps. A
//! refusal anywhere becomes an answer in `answer`, by the one table in `refusal`.
//!
//! Values move forward only: route, caller, body, call, ruling, marks, permits, plan. Each is made in one place and needs
//! the one before it. `Context` carries them; a later phase takes the plan by `ctx.planned()?`.
//!
//! ## Why one pump, and not Pingora's pipeline
//!
//! Pingora's own pipeline (`upstream_peer` to `response_body_filter`) is not entered:
//! `proxy_upstream_filter` answers every request. It can replay a body of at most 64 KiB once the
//! gateway has read it, holds 64 KiB for an idle stream, and sends the head of an answer before the
//! body could tell what to seal into the session id. The pump knows the whole request before the first byte
//! leaves, so it sends and then receives: little memory for a stream that idles, a slow reader
//! pushes back on its server, and no doubt about what was sent when something fails. With it for
//! some requests there would be two lives of a request; with it for all there is one, and
//! `loadtest/compare` shows that it costs less. Pingora still gives the process, the listeners, TLS,
//! HTTP/1 and HTTP/2 towards clients, the connectors towards servers, and the phases' names.
//!
//! # What outlives a configuration
//!
//! A snapshot is immutable, but its pools are views of what lives longer: [`upstream::Fleet`] keeps
//! for every server who its endpoints are now (configured, discovered, registered) and for every
//! endpoint its [`upstream::Standing`] (health, ejection, drain, load). A reload makes new pools over
//! the same standings. [`sessions::Table`] keeps what cannot be in a session id because it comes
//! later: the last use, and where the session moved. It is bounded and may be lost: the id is enough
//! to serve a session. [`limits::State`] keeps what limits have counted and [`policy::State`] what
//! combination rules remember, as long as their rules stay. [`catalog::Catalog`] keeps what the servers
//! said they offer, and what single callers were shown beyond that; it is asked for again after every
//! start. Its [`catalog::Pins`] remember which definitions were shown, also over restarts. [`identity::Authorities`] keeps the keys of those who issue tokens, and what was found out
//! about tokens, as long as the settings of their issuer stay the same. [`audit::Audit`] is the record
//! of one process. [`snapshot::Lasting`] holds them together.
//!
//! # Modules
//!
//! In the order of the list below, which is the order of dependency: a module imports only modules
//! above it.
//!
//! | module | question it answers |
//! |---|---|
//! | [`jsonrpc`] | what does a body ask for? Bytes in, a borrowed envelope out; no I/O, no clock |
//! | [`mcp`] | what does MCP say? Revisions, methods, headers, violations; no I/O, no clock |
//! | [`config`] | what is wanted? YAML becomes checked settings, or every problem in it is listed |
//! | [`outbound`] | the gateway's own HTTP requests: limits of time, size and address |
//! | [`telemetry`] | how is the gateway doing? Metrics, the request log, traces, the list of reasons |
//! | [`shared`] | what replicas of the gateway share: in memory by default, Redis or Valkey when configured |
//! | [`identity`] | who is calling? |
//! | [`tls`] | whom do connections trust? Certificates of listeners, of clients and of servers |
//! | [`limits`] | how much? Calls in a time, calls at once |
//! | [`upstream`] | where does a call go? Pools, endpoints, the choice, and the servers' credentials (`servers` in YAML) |
//! | [`sessions`] | which conversation? Session ids are sealed, not stored |
//! | [`catalog`] | what does each server offer? Listed by the gateway itself, in the background |
//! | [`policy`] | may they? Rules compiled to tables, conditions, combinations |
//! | [`federation`] | how are many servers one? Whose is a name, what do they offer together, and their messages on their way |
//! | [`audit`] | what happened? One line per call and event, in a chain that shows changes |
//! | [`routes`] | from a path to everything that serves it |
//! | [`snapshot`] | all of the above, made from one configuration, immutable |
//! | [`lifecycle`] | does the process serve, drain or close? Signals, and the handover to a successor |
//! | [`proxy`] | the request path, one file per step |
//! | [`admin`] | the operator's side: probes and metrics, the API, the dashboard, the configuration while it changes |
//! | `demo` | a small fleet of MCP servers inside the process, for the first minute (feature `demo`) |
//! | [`serve`] | assembly, start and stop |
//! | [`cli`] | every command |
//!
//! # Rules of the house
//!
//! `tests/architecture.rs` holds these:
//!
//! - Imports point up the list, by `crate::module`.
//! - Only [`proxy`] and [`serve`] name Pingora's proxy; only [`config`] names YAML.
//! - [`jsonrpc`] and [`mcp`] do no I/O and read no clock.
//! - Only `proxy/request_filter.rs` decides.
//! - A file opens with one sentence and has at most 500 lines before its tests.
//! - No roles for names: no manager, handler, helper, util, common, core, base, data, info, misc, and
//!   nothing begins with `get_`.
//!
//! And these are held by readers, clippy and the other tests:
//!
//! - One noun everywhere: the YAML key is the file in [`config`], the folder of the engine, the file
//!   in `tests/suite/` and the metric's prefix (only `servers` live in [`upstream`]).
//! - Text, checked settings and what runs are three types; below [`config`] nothing is checked again.
//! - Nothing from the network can panic, and no bad request reaches a server.
//! - On the request path only `refusal.rs` knows what a "no" looks like. README shows its table.
//! - Engines know neither Pingora's `Session` nor YAML; time and chance come in as arguments.
//! - Every optional key has a default; every key has a sentence in `conf/full.yaml` and a test.
//! - Functions have at most 70 lines, units stand last in names, comments are sentences and say why.

pub mod jsonrpc;
pub mod mcp;
pub mod config;
pub mod outbound;
pub mod telemetry;
pub mod shared;
pub mod identity;
pub mod tls;
pub mod limits;
pub mod upstream;
pub mod sessions;
pub mod catalog;
pub mod policy;
pub mod federation;
pub mod audit;
pub mod routes;
pub mod snapshot;
pub mod lifecycle;
pub mod proxy;
pub mod admin;
#[cfg(feature = "demo")]
pub mod demo;
pub mod serve;
pub mod cli;
