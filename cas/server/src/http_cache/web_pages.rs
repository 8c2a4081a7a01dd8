//! Refusal of requests that a web page made.
//!
//! A server without rules listens for the programs of its own machine, and a browser is one of them. A page whose name
//! is made to lead to 127.0.0.1 (DNS rebinding) could read all blobs and replace results, if it were not for the name in
//! its requests.

use std::net::IpAddr;

use axum::body::Body;
use bitzel_access::{Caller, PeerInfo};
use http::uri::Authority;
use http::{Request, header};
use tonic::Status;

/// Checks a request to a server that allows everything to the programs of its machine.
pub(super) fn refuse_web_pages(request: &Request<Body>) -> Result<(), Status> {
    let peer = request.extensions().get::<PeerInfo>();
    let is_local = peer.is_some_and(|peer| peer.state.is_local());
    let caller = request.extensions().get::<Caller>();
    let is_open = caller.is_some_and(|caller| caller.policy.is_open());
    if !(is_local && is_open) {
        return Ok(());
    }
    if request.headers().contains_key(header::ORIGIN) {
        return Err(Status::permission_denied(
            "this server takes no requests of web pages (with an Origin)",
        ));
    }
    let host = request.headers().get(header::HOST);
    let host = host.map(|host| host.to_str().is_ok_and(is_local_name));
    let authority = request.uri().authority();
    let authority = authority.map(|authority| is_local_name(authority.as_str()));
    if host == Some(false) || authority == Some(false) {
        return Err(Status::permission_denied(
            "this server has no rules, so it is called by its address or as localhost only; use one of these, or write \
             rules (docs/access.md)",
        ));
    }
    Ok(())
}

/// True for an address or `localhost`, with or without a port. No page can have such a name.
fn is_local_name(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}
