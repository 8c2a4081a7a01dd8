//! End-to-end tests: the real program, real BitBake, real bubblewrap, real upstream software.
//!
//! They need the files that `make setup` installs.

#[test]
fn every_file_is_a_module() {
    bitzel_tests::assert_declares_all_modules("tests/end_to_end.rs");
}

mod end_to_end {
    mod access;
    mod access_reload;
    mod chaos;
    mod client_fetches;
    mod cold_build;
    mod component_conflicts;
    mod detached_builds;
    mod early_cut_off;
    mod event_handlers;
    mod external_sources;
    mod failing_tasks;
    mod fakeroot;
    mod farm_state;
    mod fetchers;
    mod git_sources;
    mod held_actions;
    mod image_roots;
    mod indirect_results;
    mod input_safety;
    mod interruption;
    mod journal_connection;
    mod kubernetes_controller;
    mod metadata_errors;
    mod multiconfig;
    mod observability;
    mod original_program;
    mod prefetch;
    mod releases;
    mod remote_cache;
    mod remote_store;
    mod roots;
    mod scheduler_group;
    mod second_build;
    mod server_restart;
    mod several_schedulers;
    mod shared_sources;
    mod shared_state;
    mod special_files;
    mod task_selection;
    mod tenants;
    mod terminal;
    mod two_machines;
    mod undeclared_files;
}
