"""A window with a prompt, a live preview and a cancel button. Needs Tk, which comes with most Pythons.

python docs/examples/desktop_app.py BUNDLE
python docs/examples/desktop_app.py BUNDLE "a red apple" apple.png    # no window: checks a packaged app
"""

import queue
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffoundry.runtime import load
from diffoundry.runtime.errors import DiffoundryError

if TYPE_CHECKING:
    import tkinter as tk

    from PIL.Image import Image


@dataclass(frozen=True)
class Event:
    """A message of the worker to the window.

    Attributes:
        kind: "loaded", "preview", "done", "cancelled" or "error".
        image: The image of a preview or a result.
        text: Progress or error for the user.
    """

    kind: str
    image: "Image | None" = None
    text: str = ""


class Worker(threading.Thread):
    """Loads the bundle and generates one prompt after the other, away from the window's thread."""

    def __init__(self, bundle: str, **arguments: object) -> None:
        """Store the bundle's path and the arguments of every call, such as num_inference_steps."""
        super().__init__(daemon=True)
        self.events: queue.Queue[Event] = queue.Queue()
        self._bundle = bundle
        self._arguments = arguments
        self._prompts: queue.Queue[str | None] = queue.Queue()
        self._cancelled = threading.Event()

    def generate(self, prompt: str) -> None:
        """Ask for an image; it arrives as events."""
        self._cancelled.clear()
        self._prompts.put(prompt)

    def cancel(self) -> None:
        """Stop the current image after its current step."""
        self._cancelled.set()

    def close(self) -> None:
        """End the thread after the current image."""
        self.cancel()
        self._prompts.put(None)

    def run(self) -> None:
        """Do the work of the thread."""
        try:
            pipe = load(self._bundle)
        except DiffoundryError as error:  # its text is meant for users
            self.events.put(Event("error", text=str(error)))
            return
        with pipe:  # frees the engines at the end
            self.events.put(Event("loaded"))
            while (prompt := self._prompts.get()) is not None:
                try:
                    self.events.put(self._generate(pipe, prompt))
                except DiffoundryError as error:
                    self.events.put(Event("error", text=str(error)))

    def _generate(self, pipe: object, prompt: str) -> Event:
        run = pipe.start(prompt, **self._arguments)
        for step in run:
            if self._cancelled.is_set():
                run.cancel()
                return Event("cancelled")
            self.events.put(Event("preview", run.preview()[0], f"step {step.index + 1} of {step.total}"))
        return Event("done", run.finish().images[0])


class Window:
    """The window. It reads events twenty times a second and never waits."""

    def __init__(self, root: "tk.Tk", worker: Worker) -> None:
        """Build the window and start the worker."""
        import tkinter as tk

        self._root, self._worker, self._photo = root, worker, None
        root.title("diffoundry")
        self._entry = tk.Entry(root, width=40)
        self._entry.insert(0, "a red apple")
        self._entry.pack(padx=8, pady=8)
        self._entry.bind("<Return>", lambda _: self._start())
        self._button = tk.Button(root, text="Loading", state="disabled")
        self._button.pack()
        self._label = tk.Label(root, compound="top")
        self._label.pack(padx=8, pady=8)
        worker.start()
        self._poll()

    def _start(self) -> None:
        self._button.config(text="Cancel", state="normal", command=self._worker.cancel)
        self._worker.generate(self._entry.get())

    def _poll(self) -> None:
        while not self._worker.events.empty():
            self._show(self._worker.events.get())
        self._root.after(50, self._poll)

    def _show(self, event: Event) -> None:
        from PIL import ImageTk

        if event.image is not None:
            self._photo = ImageTk.PhotoImage(event.image.resize((256, 256)))  # Tk keeps no reference of its own
            self._label.config(image=self._photo)
        self._label.config(text=event.text)
        if event.kind != "preview":
            self._button.config(text="Generate", state="normal", command=self._start)


def generate_once(bundle: str, prompt: str, file: str) -> None:
    """Generate one image with the worker and save it, without a window; an error ends the program with its text."""
    worker = Worker(bundle)
    worker.start()
    worker.generate(prompt)
    while (event := worker.events.get()).kind not in ("done", "error"):
        print(event.text or event.kind)
    worker.close()
    if event.image is None:
        sys.exit(event.text)
    event.image.save(file)


def main(bundle: str) -> None:
    """Open the window and run until it is closed."""
    import tkinter as tk

    root = tk.Tk()
    worker = Worker(bundle)
    Window(root, worker)
    root.mainloop()
    worker.close()


if __name__ == "__main__":
    generate_once(*sys.argv[1:]) if len(sys.argv) > 2 else main(*sys.argv[1:])
