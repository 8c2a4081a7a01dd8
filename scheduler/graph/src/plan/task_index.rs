//! Index of a task graph.

use bitzel_proto::graph::{Recipe, Task, TaskGraph};

/// Error of a graph that cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGraph {
    /// An index is outside of its list.
    #[error("task {task} names {what} {index}, which does not exist")]
    Index {
        /// Index of the task.
        task: usize,
        /// Kind of the index: a recipe, a task or a target.
        what: &'static str,
        /// The index that is too large.
        index: u32,
    },
    /// The dependencies have a cycle.
    #[error("tasks depend on each other in a cycle; {0} is part of it")]
    Cycle(String),
}

/// A valid task graph with the data that planning looks up often.
#[derive(Debug)]
pub struct TaskIndex {
    graph: TaskGraph,
    dependents: Vec<Vec<u32>>,
    /// Position of each task in a topological order.
    rank: Vec<u32>,
    /// Length of the longest chain of dependents above each task: the longest one starts first.
    height: Vec<u32>,
}

impl TaskIndex {
    /// Checks the graph: every index in its range, no cycles.
    pub fn new(graph: TaskGraph) -> Result<Self, InvalidGraph> {
        check_indices(&graph)?;
        let count = graph.tasks.len();
        let mut dependents = vec![Vec::new(); count];
        for (task, message) in (0..).zip(&graph.tasks) {
            for dependency in &message.dependencies {
                dependents[*dependency as usize].push(task);
            }
        }
        let order = topological_order(&graph, &dependents)?;
        let mut rank = vec![0; count];
        for (position, task) in (0..).zip(&order) {
            rank[*task as usize] = position;
        }
        let mut height = vec![0; count];
        for task in order.iter().rev() {
            let above = dependents[*task as usize]
                .iter()
                .map(|dependent| height[*dependent as usize] + 1);
            height[*task as usize] = above.max().unwrap_or(0);
        }
        Ok(Self {
            graph,
            dependents,
            rank,
            height,
        })
    }

    /// The task graph.
    pub fn graph(&self) -> &TaskGraph {
        &self.graph
    }

    /// Indices of all tasks.
    pub fn tasks(&self) -> std::ops::Range<u32> {
        0..u32::try_from(self.graph.tasks.len()).unwrap_or(u32::MAX)
    }

    /// A task.
    pub fn task(&self, task: u32) -> &Task {
        &self.graph.tasks[task as usize]
    }

    /// The recipe of a task.
    pub fn recipe(&self, task: u32) -> &Recipe {
        &self.graph.recipes[self.task(task).recipe as usize]
    }

    /// `BitBake`'s name of a task, `recipe key:do_compile`.
    pub fn task_id(&self, task: u32) -> String {
        format!("{}:{}", self.recipe(task).key, self.task(task).name)
    }

    /// Name of a task for people, `zlib:do_compile`; with the multiconfig if it is not the default one.
    pub fn display_name(&self, task: u32) -> String {
        format!("{}:{}", self.display_recipe(task), self.task(task).name)
    }

    /// Name of the task's recipe for people: `mc:other:zlib` if it is not of the default configuration.
    pub fn display_recipe(&self, task: u32) -> String {
        let recipe = self.recipe(task);
        match recipe.multiconfig.as_str() {
            "" => recipe.package_name.clone(),
            multiconfig => format!("mc:{multiconfig}:{}", recipe.package_name),
        }
    }

    /// Tasks that have `task` as a dependency.
    pub fn dependents(&self, task: u32) -> &[u32] {
        &self.dependents[task as usize]
    }

    /// Position in a topological order.
    pub fn rank(&self, task: u32) -> u32 {
        self.rank[task as usize]
    }

    /// Length of the longest chain of dependents above a task.
    pub fn height(&self, task: u32) -> u32 {
        self.height[task as usize]
    }
}

fn check_indices(graph: &TaskGraph) -> Result<(), InvalidGraph> {
    let in_range = |task: usize, what, index: u32, length: usize| {
        if (index as usize) < length {
            Ok(())
        } else {
            Err(InvalidGraph::Index { task, what, index })
        }
    };
    let count = graph.tasks.len();
    for (number, task) in graph.tasks.iter().enumerate() {
        in_range(number, "recipe", task.recipe, graph.recipes.len())?;
        let lists = [
            &task.dependencies,
            &task.hash_dependencies,
            &task.components,
            &task.foreign_work_trees,
            &task.setscene_dependencies,
        ];
        for index in lists.into_iter().flatten() {
            in_range(number, "task", *index, count)?;
        }
    }
    graph
        .targets
        .iter()
        .try_for_each(|target| in_range(*target as usize, "target", *target, count))
}

fn topological_order(graph: &TaskGraph, dependents: &[Vec<u32>]) -> Result<Vec<u32>, InvalidGraph> {
    let mut missing: Vec<usize> = graph.tasks.iter().map(|task| task.dependencies.len()).collect();
    let mut order: Vec<u32> = (0..)
        .zip(&missing)
        .filter(|(_, missing)| **missing == 0)
        .map(|(task, _)| task)
        .collect();
    let mut next = 0;
    while let Some(task) = order.get(next).copied() {
        next += 1;
        for dependent in &dependents[task as usize] {
            missing[*dependent as usize] -= 1;
            if missing[*dependent as usize] == 0 {
                order.push(*dependent);
            }
        }
    }
    match missing.iter().position(|missing| *missing > 0) {
        None => Ok(order),
        Some(task) => {
            let task = &graph.tasks[task];
            let name = &graph.recipes[task.recipe as usize].package_name;
            Err(InvalidGraph::Cycle(format!("{name}:{}", task.name)))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
