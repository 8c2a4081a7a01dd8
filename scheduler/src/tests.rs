//! Tests of the two services on a real gRPC server, with a worker that each test controls.

mod builds;
mod cache_policy;
mod cancellation;
mod conformance_traps;
mod durability;
mod fake_worker;
mod farm;
mod gated_action_cache;
mod guarantees;
mod input_leases;
mod manual_clock;
mod resources;
mod rival_traps;
mod simulated_day;
mod tenants;
mod worker_identity;
mod worker_loss;
mod worker_protocol;
