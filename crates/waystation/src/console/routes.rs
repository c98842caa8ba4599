//! The paths of the console.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::registries::{RegistryRow, registry_rows};
use super::{Console, Counters, ProcessRow, merge_arrays};

/// Nothing from elsewhere is loaded, embedded or sent to.
const CONTENT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; \
     script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'";

/// The type of `/metrics`.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn router(console: Arc<Console>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/healthz", get(health))
        .route("/metrics", get(metrics))
        .route("/api/v1/contexts", get(contexts))
        .route("/api/v1/tasks", get(tasks))
        .route("/api/v1/blocked", get(blocked))
        .route("/api/v1/processes", get(processes))
        .route("/api/v1/registries", get(registries))
        .layer(from_fn_with_state(Arc::clone(&console), around))
        .with_state(console)
}

/// What all answers have in common.
async fn around(State(console): State<Arc<Console>>, request: Request, next: Next) -> Response {
    Counters::add(&console.counters.requests, 1);
    let mut response = next.run(request).await;
    let headers: [(HeaderName, &str); 4] = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in headers {
        response
            .headers_mut()
            .insert(name, header::HeaderValue::from_static(value));
    }
    response
}

async fn health(State(console): State<Arc<Console>>) -> Response {
    let snapshot = console.snapshots.borrow().clone();
    let roles: Vec<Value> = snapshot
        .processes
        .iter()
        .map(|process| {
            json!({
                "role": process.role,
                "state": process.state,
                "reason": process.reason,
                "pid": process.pid,
            })
        })
        .collect();
    let all = snapshot.processes.iter().all(|process| process.healthy);
    let (code, status) = match (snapshot.draining, all) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "degraded"),
        (false, true) => (StatusCode::OK, "ok"),
    };
    (code, Json(json!({ "status": status, "roles": roles }))).into_response()
}

async fn metrics(State(console): State<Arc<Console>>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, OPENMETRICS)],
        console.metrics().await,
    )
}

async fn contexts(State(console): State<Arc<Console>>) -> Json<Vec<Value>> {
    Json(merge_arrays(&console.ask("/api/v1/contexts").await))
}

async fn tasks(State(console): State<Arc<Console>>) -> Json<Vec<Value>> {
    Json(merge_arrays(&console.ask("/api/v1/tasks").await))
}

async fn blocked(State(console): State<Arc<Console>>) -> Json<Vec<Value>> {
    Json(merge_arrays(&console.ask("/api/v1/blocked").await))
}

async fn processes(State(console): State<Arc<Console>>) -> Json<Vec<ProcessRow>> {
    Json(console.process_rows().await)
}

async fn registries(State(console): State<Arc<Console>>) -> Json<Vec<RegistryRow>> {
    Json(registry_rows(&console.ask("/metrics").await))
}

async fn page(State(console): State<Arc<Console>>) -> Html<String> {
    Html(console.page().await)
}
