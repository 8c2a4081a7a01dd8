//! End-to-end tests: the real program, real BitBake, real bubblewrap, real upstream software.
//!
//! They need what `make setup` installs.

mod end_to_end {
    mod access;
    mod cold_build;
    mod component_conflicts;
    mod early_cut_off;
    mod failing_tasks;
    mod fakeroot;
    mod git_sources;
    mod indirect_results;
    mod input_safety;
    mod interruption;
    mod metadata_errors;
    mod multiconfig;
    mod observability;
    mod releases;
    mod remote_cache;
    mod remote_store;
    mod second_build;
    mod shared_sources;
    mod special_files;
    mod task_selection;
    mod two_machines;
    mod undeclared_files;
}
