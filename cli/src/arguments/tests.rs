use clap::CommandFactory as _;

use super::*;

#[test]
fn definitions_are_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn every_command_and_option_has_a_help_text() {
    assert_help(&Arguments::command());
}

fn assert_help(command: &clap::Command) {
    assert!(command.get_about().is_some(), "{command}");
    for argument in command.get_arguments() {
        assert!(argument.get_help().is_some(), "{command}: {argument}");
    }
    for subcommand in command.get_subcommands() {
        assert_help(subcommand);
    }
}
