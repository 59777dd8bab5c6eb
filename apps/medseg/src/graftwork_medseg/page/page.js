// The page's own script: it tells a form's button to wait, and runs NiiVue without a notebook.
// NiiVue comes as a Jupyter widget that asks a model for its values; Model answers in the notebook's place.

class Model {
  constructor(values, models, heard) {
    this.values = values;
    this.handlers = new Map();
    this.heard = heard || (() => {});
    this.widget_manager = { get_model: async (id) => models.get(id) };
  }
  // Nobody on the other side wants the voxels back: a closed channel keeps the widget from copying them.
  _comm_live = false;
  send_sync_message() {}
  get(name) { return this.values[name]; }
  set(name, value) { this.values[name] = value; }
  save_changes() {}
  on(event, handler) { this.handlers.set(event, [...(this.handlers.get(event) || []), handler]); }
  off(event, handler) {
    const left = (this.handlers.get(event) || []).filter((h) => handler && h !== handler);
    this.handlers.set(event, left);
  }
  send(message) { this.heard(message); }
  fire(event, ...args) { for (const handler of this.handlers.get(event) || []) handler(...args); }
  change(name, value) { this.set(name, value); this.fire(`change:${name}`); }
  command(type, ...data) { this.fire("msg:custom", { type, data }, []); }
}

const [GRID, ROW] = [2, 3];
const SLICE = { axial: 0, coronal: 1, sagittal: 2, multi: 3, mask: 4 };
const OPTIONS = {
  backColor: [0, 0, 0, 1], crosshairColor: [0.9, 0.92, 0.95, 1], crosshairWidth: 0.6, crosshairGap: 10,
  show3Dcrosshair: false, isColorbar: false, multiplanarShowRender: 1, multiplanarEqualSize: true,
  multiplanarPadPixels: 10, dragMode: 0, fontMinPx: 14, fontColor: [0.9, 0.92, 0.95, 1],
  showAllOrientationMarkers: true, isRadiologicalConvention: false, dragAndDropEnabled: false,
  isNearestInterpolation: true,
};

function volume(id, name, data, more) {
  return {
    id, name, data, path: {}, url: null, paired_img_path: {}, paired_img_url: "", paired_img_data: null,
    colormap: "gray", opacity: 1, colormap_negative: "", frame_4d: 0, cal_min: null, cal_max: null,
    cal_min_neg: null, cal_max_neg: null, colorbar_visible: false, colormap_type: 0, colormap_label: null,
    colormap_invert: false, modulation_image: null, modulate_alpha: 0, ...more,
  };
}

class Panel {
  constructor(figure, number, told, files) {
    this.figure = figure;
    this.number = number;
    this.told = told;
    this.models = new Map();
    this.moved = () => {};
    const add = (id, name, data, more) => {
      this.models.set(id, new Model(volume(id, name, data, more), this.models));
      return `IPY_MODEL_${id}`;
    };
    const names = [add("image", told.image.split("/").pop(), files.image)];
    for (const mask of Object.keys(told.masks)) {
      names.push(add(mask, `${mask}.nii.gz`, files[mask], { opacity: 0, colormap_label: this.table(() => true) }));
    }
    this.screen = new Model({
      opts: { ...OPTIONS, multiplanarLayout: GRID }, volumes: names, meshes: [], height: figure.querySelector(".screen").clientHeight,
      background_masks_overlays: 0, draw_lut: null, draw_opacity: 0.8, draw_fill_overwrites: true,
      graph: null, scene: null, overlay_outline_width: 0, overlay_alpha_shader: 1, this_model_id: null,
    }, this.models, (message) => this.moved(message));
  }

  // One colour per class. One that is not wanted is the background's, which blends at edges as it does.
  table(wanted) {
    const lut = [0, 0, 0, 0];
    this.told.colours.forEach((colour, i) => lut.push(...(wanted(i + 1) ? [...colour, 255] : [0, 0, 0, 0])));
    return { lut, min: 0, max: this.told.colours.length, labels: null };
  }

  async start() {
    // NiiVue keeps one viewer per module: each panel imports a module of its own.
    const widget = (await import(`${this.told.widget}?panel=${this.number}`)).default;
    await widget.initialize({ model: this.screen });
    await widget.render({ model: this.screen, el: this.figure.querySelector(".screen") });
  }

  show(mask, view, opacity, wanted, wide) {
    this.figure.querySelector("figcaption").textContent = mask;
    const only = view === "mask";
    this.set("image", "opacity", only ? 0 : 1);
    for (const name of Object.keys(this.told.masks)) {
      this.set(name, "opacity", name === mask ? (only ? 1 : opacity) : 0);
      const table = this.table(wanted);
      const key = table.lut.join();
      if (this.models.get(name).key !== key) {
        this.models.get(name).key = key;
        this.models.get(name).change("colormap_label", table);
      }
    }
    this.screen.change("opts", { ...OPTIONS, sliceType: SLICE[view], multiplanarLayout: wide ? ROW : GRID });
    this.screen.command("draw_scene");
  }

  set(id, name, value) {
    const model = this.models.get(id);
    if (model.get(name) !== value) model.change(name, value);
  }

  scene(values) {
    this.screen.change("scene", values);
    this.screen.command("draw_scene");
  }
}

async function fetched(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  return new Uint8Array(await answer.arrayBuffer());
}

function follow(panels, told, where) {
  let busy = false; // what one panel is told by the other is no news
  panels.forEach((panel) => {
    panel.moved = ({ event, data }) => {
      if (busy) return;
      busy = true;
      const others = panels.filter((other) => other !== panel && other.running);
      if (event === "location_change") {
        others.forEach((other) => other.scene({ crosshairPos: data.frac }));
        const at = ["x", "y", "z"].map((axis, i) => `${axis} ${data.mm[i].toFixed(1)}`).join(", ");
        const masks = Object.keys(told.masks).map((mask, i) => {
          const value = data.values[i + 1];
          return `${mask}: ${told.classes[Math.round(value ? value.value : 0)] || "?"}`;
        });
        where.textContent = [`${at} mm`, ...masks].join(" · ");
      } else if (event === "azimuth_elevation_change") {
        others.forEach((o) => o.scene({ renderAzimuth: data.azimuth, renderElevation: data.elevation }));
      }
      busy = false;
    };
  });
}

async function view(root) {
  const told = JSON.parse(root.dataset.case);
  const where = root.querySelector(".where");
  const form = root.querySelector("form");
  form.addEventListener("submit", (event) => event.preventDefault());
  if (!document.createElement("canvas").getContext("webgl2")) {
    throw new Error("this browser has no WebGL 2");
  }
  const files = { image: await fetched(told.image) };
  for (const [mask, address] of Object.entries(told.masks)) files[mask] = await fetched(address);
  const panels = [...root.querySelectorAll(".panel")].map((f, i) => new Panel(f, i, told, files));
  follow(panels, told, where);
  for (const panel of panels) {
    await panel.start();
    panel.running = true;
  }
  function redraw() {
    const asked = new FormData(form);
    const classes = new Set(asked.getAll("class").map(Number));
    const both = asked.get("show") === "both";
    const masks = both ? ["base", "adapted"] : [asked.get("show")];
    panels.forEach((panel, i) => {
      panel.figure.classList.toggle("away", i >= masks.length);
      if (masks[i]) panel.show(masks[i], asked.get("view"), Number(asked.get("opacity")), (k) => classes.has(k), !both);
    });
    root.dataset.shown = `${masks.join()} ${asked.get("view")}`;
  }
  form.addEventListener("input", redraw);
  panels.forEach((panel) => panel.scene({ crosshairPos: told.start }));
  redraw();
  where.textContent = "Click into a slice to read it; drag the 3D view to turn it.";
  root.dataset.state = "ready";
}

const root = document.getElementById("viewer");
if (root) {
  view(root).catch((error) => {
    root.classList.add("off");
    root.dataset.state = "off";
    root.querySelector(".where").textContent = `The 3D viewer cannot run here: ${error.message}.`;
    document.getElementById("slices").open = true;
  });
}

document.querySelectorAll("button[data-wait]").forEach((button) => {
  const words = button.textContent;
  button.form.addEventListener("submit", () => {
    button.disabled = true;
    button.textContent = button.dataset.wait;
  });
  window.addEventListener("pageshow", () => { // also when the browser comes back to the page
    button.disabled = false;
    button.textContent = words;
  });
});
