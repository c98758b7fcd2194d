// The scripts of a page are no modules: camcli/report/scripts.py joins them to one script, whose functions and constants they
// share. lint.js therefore checks each page as a whole. Unknown names are left to the type checker, which knows the browser's.
import js from "@eslint/js";

const MARKUP = "texts come from file names and tables: write them with textContent, append() or setAttribute()";

export default [
  js.configs.recommended,
  {
    languageOptions: { ecmaVersion: 2022, sourceType: "script" },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      "no-undef": "off",
      "no-unused-vars": ["error", { varsIgnorePattern: "^camcliMaps$" }], // report/maps/*.js call that one
      "no-use-before-define": ["error", { functions: false, variables: false }], // a page whose scripts are in the wrong order
      "array-callback-return": "error",
      eqeqeq: "error",
      "no-eval": "error",
      "no-implied-eval": "error",
      "no-loop-func": "error",
      "no-new-func": "error",
      "no-script-url": "error",
      "no-self-compare": "error",
      "no-template-curly-in-string": "error",
      "no-unreachable-loop": "error",
      "no-var": "error",
      "prefer-const": "error",
      "no-restricted-properties": [
        "error",
        ...["innerHTML", "outerHTML", "insertAdjacentHTML", "setHTMLUnsafe"].map((property) => ({ property, message: MARKUP })),
        { object: "document", property: "write", message: MARKUP },
      ],
    },
  },
];
