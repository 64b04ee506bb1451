/** Finished jobs, in the browser's own database; in memory where it has none. Nothing leaves the browser. */

const STORE = "jobs";
const MOST = 200;

let database = null;
const kept = new Map();

function promised(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Open the database, and return the jobs in it, the newest first. */
export async function openHistory() {
  try {
    const request = indexedDB.open("diffoundry", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
    database = await promised(request);
    for (const job of await promised(store("readonly").getAll())) kept.set(job.id, job);
  } catch {
    database = null;
  }
  return listJobs();
}

function store(mode) {
  return database.transaction(STORE, mode).objectStore(STORE);
}

async function change(work) {
  try {
    if (database) await promised(work(store("readwrite")));
  } catch {
    database = null; // full, or private browsing: memory has everything
  }
}

/** Return all jobs, the newest first. */
export function listJobs() {
  return [...kept.values()].sort((a, b) => b.created - a.created);
}

/** Keep a job; very old ones make room. */
export async function addJob(job) {
  kept.set(job.id, job);
  await change((jobs) => jobs.put(job));
  for (const old of listJobs().slice(MOST)) await removeJob(old.id);
}

/** Delete a job. */
export async function removeJob(id) {
  kept.delete(id);
  await change((jobs) => jobs.delete(id));
}

/** Delete all. */
export async function clearJobs() {
  kept.clear();
  await change((jobs) => jobs.clear());
}
