// What the export puts beside these files, under the name that they import it by.
declare module "*/onnxruntime/ort.js" {
  export * from "onnxruntime-web";
}
