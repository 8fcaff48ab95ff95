// Starts once Gradio has mounted the page's components.
function segicStart() {
  // The painter: an image on a canvas, a mask above it, and at most one box. The server sends the image and the
  // mask in #draft's attributes; window.segicMarks() returns what the server reads: JSON of the mask (a PNG, opaque
  // where painted) and the box in the canvas's pixels.
  const COLOUR = "rgb(30, 120, 255)";
  const UNDO_STEPS = 30;
  const canvas = document.querySelector("#painter canvas");
  const mounted = ["#draft", "#classes", "#change-class"].every((id) => document.querySelector(id));
  if (!canvas || !mounted) return void requestAnimationFrame(segicStart);
  const size = document.querySelector("#painter input[type=range]");
  const status = document.querySelector("#painter [role=status]");
  const context = canvas.getContext("2d");
  const mask = document.createElement("canvas");
  const paint = mask.getContext("2d");
  const image = new Image();
  let tool = "brush", box = null, undoSteps = [], cursor = null, last = null, corner = null, loaded = null;

  const radius = () => (Number(size.value) / 100) * 0.16 * Math.max(canvas.width, canvas.height) + 1;
  const wipe = () => paint.clearRect(0, 0, mask.width, mask.height);

  function show() {
    context.globalAlpha = 1;
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    context.globalAlpha = 0.6;
    context.drawImage(mask, 0, 0);
    context.globalAlpha = 1;
    const outline = box ?? (corner && cursor && [...corner, ...cursor]);
    if (outline) {
      const rectangle = [outline[0], outline[1], outline[2] - outline[0], outline[3] - outline[1]];
      for (const [colour, width] of [["white", 5], [COLOUR, 3]]) {
        context.strokeStyle = colour;
        context.lineWidth = width;
        context.strokeRect(...rectangle);
      }
    }
    if (cursor) {
      for (const [colour, grow] of [["white", 1], ["black", 0]]) {
        context.beginPath();
        context.strokeStyle = colour;
        context.lineWidth = 1;
        context.arc(cursor[0], cursor[1], (tool === "box" ? 4 : radius()) + grow, 0, 2 * Math.PI);
        context.stroke();
      }
    }
  }

  function saveUndoStep() {
    undoSteps.push({ pixels: paint.getImageData(0, 0, mask.width, mask.height), box });
    undoSteps = undoSteps.slice(-UNDO_STEPS);
  }

  // Mouse, touch and keyboard all draw with press, move and release at a point of the canvas.
  function press(at) {
    saveUndoStep();
    if (tool === "box") {
      wipe();
      box = null;
      corner = at;
    } else {
      box = null;
      last = at;
      move(at);
    }
    show();
  }

  function move(at) {
    cursor = at;
    if (last) {
      paint.globalCompositeOperation = tool === "eraser" ? "destination-out" : "source-over";
      paint.strokeStyle = COLOUR;
      paint.lineWidth = 2 * radius();
      paint.lineCap = paint.lineJoin = "round";
      paint.beginPath();
      paint.moveTo(...last);
      paint.lineTo(...at);
      paint.stroke();
      last = at;
    }
    show();
  }

  function release() {
    if (corner && cursor) {
      const sorted = [0, 1].map((i) => [corner[i], cursor[i]].sort((a, b) => a - b));
      const drawn = [sorted[0][0], sorted[1][0], sorted[0][1], sorted[1][1]];
      if (drawn[2] - drawn[0] >= 2 && drawn[3] - drawn[1] >= 2) box = drawn;
    }
    last = corner = null;
    show();
  }

  const pressed = () => last !== null || corner !== null;
  const clamp = (x, y) => [Math.min(Math.max(x, 0), canvas.width), Math.min(Math.max(y, 0), canvas.height)];
  function point(event) {
    const frame = canvas.getBoundingClientRect();
    return clamp(
      ((event.clientX - frame.left) / frame.width) * canvas.width,
      ((event.clientY - frame.top) / frame.height) * canvas.height,
    );
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    cursor = point(event);
    press(cursor);
  });
  canvas.addEventListener("pointermove", (event) => move(point(event)));
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => { if (!pressed()) { cursor = null; show(); } });
  canvas.addEventListener("blur", () => { if (pressed()) release(); });

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 1 : Math.max(4, radius() / 2);
    const at = cursor ?? [canvas.width / 2, canvas.height / 2];
    if (event.key in ARROWS) {
      const [x, y] = ARROWS[event.key];
      move(clamp(at[0] + x * step, at[1] + y * step));
    } else if (event.key === " " || event.key === "Enter") {
      cursor = at;
      if (pressed()) { release(); announce("Stopped drawing."); } else { press(at); announce("Drawing: move with the arrow keys, stop with Space."); }
    } else if (event.key === "Escape" && pressed()) {
      release();
    } else if (event.key === "z" && (event.ctrlKey || event.metaKey)) {
      undo();
    } else {
      return;
    }
    event.preventDefault();
  });

  const announce = (text) => { status.textContent = text; };

  function undo() {
    const before = undoSteps.pop();
    if (!before) return;
    paint.putImageData(before.pixels, 0, 0);
    box = before.box;
    show();
  }

  document.querySelector("#painter").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.dataset.tool) {
      tool = button.dataset.tool;
      for (const choice of document.querySelectorAll("#painter [data-tool]")) choice.setAttribute("aria-pressed", choice === button);
    } else if (button?.dataset.do === "undo") {
      undo();
    } else if (button?.dataset.do === "clear") {
      saveUndoStep();
      wipe();
      box = null;
      show();
    }
  });

  async function load() {
    const { image: source, mask: maskSource } = document.querySelector("#draft")?.dataset ?? {};
    // Gradio may write the same data again at any time; that must not erase what was painted since.
    if (source + maskSource === loaded) return;
    loaded = source + maskSource;
    undoSteps = [];
    box = cursor = last = corner = null;
    if (!source) {
      wipe();
      return;
    }
    image.src = source;
    await image.decode();
    for (const layer of [canvas, mask]) [layer.width, layer.height] = [image.naturalWidth, image.naturalHeight];
    if (maskSource) {
      const painted = new Image();
      painted.src = maskSource;
      await painted.decode();
      paint.drawImage(painted, 0, 0);
    }
    show();
    canvas.dataset.ready = source.length + ":" + (maskSource ?? "").length;
  }
  new MutationObserver(load).observe(document.querySelector("#draft-data"), { childList: true, subtree: true });

  window.segicMarks = () => JSON.stringify({ mask: mask.toDataURL("image/png"), box });

  // The class list: a hidden button's event sends window.segicClassChange, a class and its new colour or "" to remove it.
  function changeClass(item, colour) {
    window.segicClassChange = [item.dataset.class, colour];
    document.querySelector("#change-class").click();
  }
  const classes = document.querySelector("#classes");
  classes.addEventListener("change", (event) => changeClass(event.target.closest("li"), event.target.value));
  classes.addEventListener("click", (event) => {
    const item = event.target.closest("button")?.closest("li");
    if (item && confirm(`Remove ${item.dataset.class} and its examples?`)) changeClass(item, "");
  });

  // Pasted images go to the step that was used last, at first to step 1.
  let upload = "reference-upload";
  const noteStep = (event) => {
    if (event.target.closest?.("#target-step")) upload = "target-upload";
    else if (event.target.closest?.("#example-step")) upload = "reference-upload";
  };
  document.addEventListener("pointerdown", noteStep);
  document.addEventListener("focusin", noteStep);
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    const input = document.querySelector(`#${upload} input[type=file]`);
    if (!files.length || !input) return;
    event.preventDefault();
    const transfer = new DataTransfer();
    for (const file of input.multiple ? files : files.slice(0, 1)) transfer.items.add(file);
    input.files = transfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });
}
segicStart();
